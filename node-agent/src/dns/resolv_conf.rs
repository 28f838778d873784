//! `resolv.conf`, as resolvers read it.

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub(crate) nameservers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

impl ResolvConf {
    pub(crate) fn read(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next();
            let words = words.map(str::to_owned);
            match keyword {
                Some("nameserver") => found.nameservers.extend(words.take(1)),
                // The last one counts.
                Some("search" | "domain") => found.searches = words.collect(),
                Some("options") => found.options.extend(words),
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_search_counts_and_comments_do_not() {
        let found = ResolvConf::read(
            "# nameserver 1.1.1.1\nnameserver 192.0.2.1 # first\nnameserver fd00::1\nsearch a b\ndomain c\n; x\noptions ndots:2 rotate\n",
        );
        assert_eq!(found.nameservers, ["192.0.2.1", "fd00::1"]);
        assert_eq!((found.searches, found.options.len()), (vec!["c".to_owned()], 2));
        assert_eq!(ResolvConf::read("\u{fffd} nonsense"), ResolvConf::default());
    }
}
