//! Lists: selectors, pages, one revision.

use weir_proto::Resource;
use weir_proto::core::v1::{ConfigMap, Pod};

use crate::fixture::{Cluster, config_map, pod};

fn names<R: Resource>(items: &[R]) -> Vec<&str> {
    items.iter().map(|item| item.meta().name.as_str()).collect()
}

#[tokio::test]
async fn a_list_shows_every_write_that_was_answered_before_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for index in 0..50 {
        let created = admin.create(&config_map(&format!("m{index}"))).await.unwrap();
        let (items, page) = admin.list::<ConfigMap>("default", |_| {}).await.unwrap();
        assert_eq!(items.len(), index + 1);
        let revision: i64 = page.resource_version.parse().unwrap();
        assert!(revision >= created.meta().resource_version.parse().unwrap());
    }
}

#[tokio::test]
async fn selectors_choose() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for name in ["a", "b", "c"] {
        admin.create(&config_map(name)).await.unwrap();
    }
    let (items, _) =
        admin.list::<ConfigMap>("", |r| r.label_selector = "name in (a,b)".to_owned()).await.unwrap();
    assert_eq!(names(&items), ["a", "b"]);
    let (items, _) = admin
        .list::<ConfigMap>("default", |r| r.field_selector = "metadata.name!=b".to_owned())
        .await
        .unwrap();
    assert_eq!(names(&items), ["a", "c"]);
    let (items, _) = admin.list::<ConfigMap>("kube-system", |_| {}).await.unwrap();
    assert_eq!(names(&items), Vec::<&str>::new());
    for (labels, fields) in [("a b", ""), ("", "metadata.name"), ("", "data.a=b")] {
        let refused = admin.list::<ConfigMap>("", |r| {
            r.label_selector = labels.to_owned();
            r.field_selector = fields.to_owned();
        });
        assert_eq!(refused.await.unwrap_err().code(), 400, "{labels:?} {fields:?}");
    }
}

#[tokio::test]
async fn pages_show_the_state_of_the_first_whatever_happens_between() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for index in 0..7 {
        admin.create(&config_map(&format!("m{index}"))).await.unwrap();
    }
    let (first, page) = admin.list::<ConfigMap>("default", |r| r.limit = 3).await.unwrap();
    assert_eq!((names(&first), page.remaining), (vec!["m0", "m1", "m2"], 4));
    admin.delete::<ConfigMap>("default", "m4", |_| {}).await.unwrap();
    admin.create(&config_map("m35")).await.unwrap();
    let token = page.continue_token;
    let (second, page) = admin
        .list::<ConfigMap>("default", |r| {
            r.limit = 3;
            r.continue_token.clone_from(&token);
        })
        .await
        .unwrap();
    assert_eq!((names(&second), page.remaining), (vec!["m3", "m4", "m5"], 1));
    let (third, last) = admin
        .list::<ConfigMap>("default", |r| r.continue_token.clone_from(&page.continue_token))
        .await
        .unwrap();
    assert_eq!((names(&third), last.continue_token.as_str()), (vec!["m6"], ""));
    for bad in ["x", &token] {
        let refused = admin.list::<Pod>("default", |r| r.continue_token = bad.to_owned()).await.unwrap_err();
        assert_eq!(refused.code(), 400);
    }
}

#[tokio::test]
async fn pages_by_selector_are_full() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for index in 0..9 {
        let mut made = pod(&format!("p{index}"));
        made.meta_mut().labels.insert("odd".to_owned(), (index % 2 == 1).to_string());
        admin.create(&made).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let (items, page) = admin
            .list::<Pod>("default", |r| {
                r.limit = 2;
                r.label_selector = "odd=true".to_owned();
                r.continue_token = token;
            })
            .await
            .unwrap();
        seen.extend(items.into_iter().map(|pod| pod.meta().name.clone()));
        token = page.continue_token;
        if token.is_empty() {
            break;
        }
        // The past must be served from the store.
        admin.create(&pod(&format!("later-{}", seen.len()))).await.unwrap();
    }
    assert_eq!(seen, ["p1", "p3", "p5", "p7"]);
}
