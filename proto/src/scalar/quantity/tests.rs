use proptest::prelude::*;
use prost::Message;

use super::*;

fn canonical(text: &str) -> String {
    text.parse::<Quantity>().unwrap().to_string()
}

#[test]
fn canonical_form_is_kubernetes_own() {
    for (text, form) in [
        ("0", "0"),
        ("-0", "0"),
        ("0Gi", "0"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("5.", "5"),
        ("1.5", "1500m"),
        ("100m", "100m"),
        ("1000m", "1"),
        ("1024", "1024"),
        ("1024Mi", "1Gi"),
        ("1Ki", "1Ki"),
        ("0.5Gi", "512Mi"),
        ("1.5Gi", "1536Mi"),
        ("512.5", "512500m"),
        ("0.5Ki", "512"),
        ("0.3Gi", "322122547200m"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("1E", "1E"),
        ("12e6", "12e6"),
        ("1.5e3", "1500"),
        ("1e-3", "1e-3"),
        ("2500e-1", "250"),
        ("1k", "1k"),
        ("1000k", "1M"),
        ("10M", "10M"),
        ("1000000", "1M"),
        ("123456789", "123456789"),
        ("5n", "5n"),
        ("5000u", "5m"),
        ("-250m", "-250m"),
        ("+3", "3"),
        ("007", "7"),
        ("9223372036854775807", "9223372036854775807"),
        ("1Ei", "1Ei"),
        ("71203619.1223373687472036801372640580137264055811Gi", "76454303871819805461983075n"),
    ] {
        assert_eq!(canonical(text), form, "{text}");
    }
}

#[test]
fn what_is_too_fine_is_rounded_up_and_what_is_too_large_is_cut() {
    for (text, form) in [
        ("0.1n", "1n"),
        ("-0.1n", "-1n"),
        ("1e-500", "1e-9"),
        ("0.0000000000000000000000000000000000000000000000000001", "1n"),
        ("1.0000000001", "1000000001n"),
        ("99999999999999999999999999999999999999999999999999", "9223372036854775807"),
        ("1e500", "9223372036854775807"),
        ("8Ei", "9223372036854775807"),
        ("-9Ei", "-9223372036854775807"),
        ("1e99999999999999999", "9223372036854775807"),
    ] {
        match text.parse::<Quantity>() {
            Ok(quantity) => assert_eq!(quantity.to_string(), form, "{text}"),
            Err(error) => panic!("{text}: {error}"),
        }
    }
}

#[test]
fn what_is_no_quantity_is_refused() {
    let long = "1".repeat(MAX_LENGTH + 1);
    for text in [
        "", ".", "-", "m", "1 Gi", "1gi", "1GiB", "1e", "1e1.5", "1.2.3", "--1", "1K", "0x10", "é", "1e++3",
        "Gi", "1_0", &long,
    ] {
        assert!(text.parse::<Quantity>().is_err(), "{text}");
    }
}

#[test]
fn values_are_rounded_up() {
    for (text, milli, value) in [
        ("250m", 250, 1),
        ("1", 1000, 1),
        ("1500u", 2, 1),
        ("0", 0, 0),
        ("-1500m", -1500, -1),
        ("1Gi", 1_073_741_824_000, 1 << 30),
    ] {
        let quantity: Quantity = text.parse().unwrap();
        assert_eq!((quantity.milli_value(), quantity.value()), (milli, value), "{text}");
    }
}

#[test]
fn sums_keep_the_format_of_what_they_add_to() {
    let sum = |a: &str, b: &str| (a.parse::<Quantity>().unwrap() + b.parse().unwrap()).to_string();
    assert_eq!(sum("1Gi", "1Gi"), "2Gi");
    assert_eq!(sum("0", "1Gi"), "1Gi");
    assert_eq!(sum("1", "500m"), "1500m");
    let largest = Quantity::from_value(i64::MAX);
    assert_eq!(largest + largest, largest);
    assert_eq!((Quantity::from_milli(100) - Quantity::from_value(1)).to_string(), "-900m");
    assert_eq!([Quantity::from_bytes(1 << 20); 3].iter().sum::<Quantity>().to_string(), "3Mi");
}

#[test]
fn equality_is_that_of_the_amount() {
    let quantity = |text: &str| text.parse::<Quantity>().unwrap();
    assert_eq!(quantity("1Ki"), quantity("1024"));
    assert!(quantity("999m") < quantity("1"));
}

proptest! {
    #[test]
    fn canonical_form_is_a_fixed_point(
        whole in 0_u64..,
        fraction in 0_u32..,
        suffix in prop::sample::select(vec!["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "e3", "e-6"]),
    ) {
        let quantity: Quantity = format!("{whole}.{fraction}{suffix}").parse().unwrap();
        let text = quantity.to_string();
        let again: Quantity = text.parse().unwrap();
        prop_assert_eq!(quantity, again);
        prop_assert_eq!(&text, &again.to_string());
        prop_assert_eq!(Quantity::decode(&*quantity.encode_to_vec()).unwrap(), quantity);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,40}|[0-9.]{0,30}[eEnumkMGTPi+-]{0,3}[0-9]{0,9}") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }
    }
}
