//! Links that go at the same time go together.
//!
//! For a link that goes the kernel waits, some twenty milliseconds, until nobody can be looking at it any more; removals
//! one by one wait one after the other. For many in one request it waits once. So whoever comes while a removal is under
//! way goes with the next: links are put into a group of their own, and the group is removed.
//!
//! **Invariant:** a removal may be cut off at any await. Those that it was to take along try again by themselves.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec};
use tokio::sync::oneshot;

use crate::Error;
use crate::error::is_absent;
use crate::link::Link;

/// "weir" in ASCII: nobody else's group. Only links that are about to go are ever in it.
const GOING: u32 = 0x7765_6972;

/// Who wants to be rid of which link.
#[derive(Debug)]
struct Waiting {
    link: Link,
    done: oneshot::Sender<Result<(), Error>>,
}

#[derive(Debug, Default)]
pub(crate) struct Removals {
    waiting: Mutex<Vec<Waiting>>,
    /// Whoever has it removes the links of all who wait.
    turn: tokio::sync::Mutex<()>,
}

impl Removals {
    /// Removes a pair by one of its ends; one that is gone already is fine.
    pub(crate) async fn remove(&self, netlink: &Handle, link: &Link) -> Result<(), Error> {
        loop {
            let (done, outcome) = oneshot::channel();
            self.waiting().push(Waiting { link: link.clone(), done });
            {
                let _turn = self.turn.lock().await;
                let all = std::mem::take(&mut *self.waiting());
                remove_all(netlink, all).await;
            }
            // Nothing is heard of it where the one whose turn it was has been cut off.
            if let Ok(outcome) = outcome.await {
                return outcome;
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn remove_all(netlink: &Handle, all: Vec<Waiting>) {
    let together = all.len() > 1 && remove_together(netlink, &all).await;
    for Waiting { link, done } in all {
        let outcome = if together { Ok(()) } else { remove_one(netlink, &link).await };
        // Whoever asked may have been cut off.
        let _ = done.send(outcome);
    }
}

/// Whether they are gone. If not, why is found out one by one.
async fn remove_together(netlink: &Handle, all: &[Waiting]) -> bool {
    let is_fine =
        |outcome: Result<(), rtnetlink::Error>| outcome.map_or_else(|error| is_absent(&error), |()| true);
    for Waiting { link, .. } in all {
        let going =
            LinkUnspec::new_with_index(link.index).append_extra_attribute(LinkAttribute::Group(GOING));
        if !is_fine(netlink.link().set(going.build()).execute().await) {
            return false;
        }
    }
    // Without an index it is the group that is meant.
    let mut group = netlink.link().del(0);
    group.message_mut().attributes.push(LinkAttribute::Group(GOING));
    is_fine(group.execute().await)
}

async fn remove_one(netlink: &Handle, link: &Link) -> Result<(), Error> {
    match netlink.link().del(link.index).execute().await {
        Err(error) if !is_absent(&error) => Err(Error::netlink("remove link", &link.name)(error)),
        _ => Ok(()),
    }
}
