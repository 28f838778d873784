//! Tables for people, read live from the pinned maps.

use std::str::FromStr;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Services,
    Backends,
    Maps,
    Conntrack,
    Drops,
    Links,
}

impl View {
    pub const ALL: [Self; 6] =
        [Self::Services, Self::Backends, Self::Maps, Self::Conntrack, Self::Drops, Self::Links];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Maps => "maps",
            Self::Conntrack => "conntrack",
            Self::Drops => "drops",
            Self::Links => "links",
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no view is called {0:?}; there are services, backends, maps, conntrack, drops and links")]
pub struct UnknownView(String);

impl FromStr for View {
    type Err = UnknownView;

    fn from_str(word: &str) -> Result<Self, UnknownView> {
        Self::ALL.into_iter().find(|view| view.name() == word).ok_or_else(|| UnknownView(word.to_owned()))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}
