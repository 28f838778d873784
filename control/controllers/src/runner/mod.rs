//! Runs a controller: what it watches is turned into keys, and each key is given to one worker at a time.
//!
//! A failed key comes again, later each time; a key may ask to come again after a while; all keys come again now and
//! then, in case a notification was missed. A key that takes long rests before it comes again, so that the many
//! changes of something large are dealt with together. Nothing here knows what the keys mean.

mod metrics;
mod queue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weir_client::{Change, Informer, Notice, ObjectKey};
use weir_proto::Resource;

pub(crate) use queue::Queue;

use crate::Error;

/// All keys come at least this often.
const RESYNC: Duration = Duration::from_secs(600);

/// Work on one key that takes longer than this…
const SHORT: Duration = Duration::from_millis(10);
/// … is followed by a rest of this many times the excess, …
const REST: u32 = 3;
/// … but not by a longer one than this.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// When a key that was reconciled should come again, if nothing else brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Change,
    After(Duration),
    /// At once: there was more to do than was done.
    Again,
}

impl Next {
    /// After the shortest of these, if there are any.
    pub(crate) fn earliest(delays: impl IntoIterator<Item = Duration>) -> Next {
        delays.into_iter().min().map_or(Next::Change, Next::After)
    }
}

/// One reconcile loop.
pub(crate) trait Controller: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Every key there is to reconcile.
    fn keys(&self) -> Vec<ObjectKey>;

    /// Brings what is behind the key closer to what is wanted. Must not rely on having been called before.
    fn reconcile(&self, key: &ObjectKey) -> impl Future<Output = Result<Next, Error>> + Send;
}

/// A controller with its queue, its watches and its workers.
pub(crate) struct Runner<C> {
    controller: Arc<C>,
    queue: Arc<Queue>,
    workers: usize,
    tasks: JoinSet<()>,
}

impl<C: Controller> Runner<C> {
    pub(crate) fn new(controller: C, workers: usize) -> Runner<C> {
        let queue = Arc::new(Queue::named(controller.name()));
        Runner { controller: Arc::new(controller), queue, workers, tasks: JoinSet::new() }
    }

    /// Changes that `informer` sees bring the keys that `keys` gives for them.
    pub(crate) fn on<R: Resource>(
        mut self,
        informer: &Informer<R>,
        keys: impl Fn(&Change<R>) -> Vec<ObjectKey> + Send + 'static,
    ) -> Runner<C> {
        let (controller, queue) = (self.controller.clone(), self.queue.clone());
        let mut changes = informer.subscribe();
        self.tasks.spawn(async move {
            while let Some(notice) = changes.next().await {
                let keys = match notice {
                    Notice::Changed(change) => keys(&change),
                    Notice::Resync => controller.keys(),
                };
                for key in keys {
                    queue.add(key);
                }
            }
        });
        self
    }

    /// A task that fills the queue itself, for what no informer shows.
    pub(crate) fn fed_by<F>(mut self, feed: impl FnOnce(&Arc<Queue>) -> F) -> Runner<C>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(feed(&self.queue));
        self
    }

    /// As [`Runner::on`], for objects that are themselves what is reconciled.
    pub(crate) fn on_each<R: Resource>(self, informer: &Informer<R>) -> Runner<C> {
        self.on(informer, |change| {
            change.states().take(1).map(|object| ObjectKey::of(object.as_ref())).collect()
        })
    }

    /// Works until `cancel`; what has been begun by then is finished.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        for key in self.controller.keys() {
            self.queue.add(key);
        }
        let mut workers = JoinSet::new();
        for _ in 0..self.workers {
            workers.spawn(work(self.controller.clone(), self.queue.clone(), cancel.clone()));
        }
        self.tasks.spawn(resync(self.controller.clone(), self.queue.clone()));
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                // A bug; going on without the worker would hide it.
                std::panic::resume_unwind(error.into_panic());
            }
        }
        self.tasks.shutdown().await;
    }
}

async fn work<C: Controller>(controller: Arc<C>, queue: Arc<Queue>, cancel: CancellationToken) {
    loop {
        let key = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            key = queue.next() => key,
        };
        let began = Instant::now();
        let outcome = controller.reconcile(&key).await;
        queue.worked(began.elapsed());
        match outcome {
            Ok(next) => {
                queue.forget(&key);
                match next {
                    Next::Change => {}
                    Next::After(delay) => queue.add_after(key.clone(), delay),
                    Next::Again => queue.add(key.clone()),
                }
                let rest = began.elapsed().saturating_sub(SHORT).saturating_mul(REST).min(LONGEST_REST);
                if rest.is_zero() || next == Next::Again {
                    queue.done(key);
                } else {
                    queue.done_for(key, rest);
                }
            }
            Err(error) => {
                if error.is_expected() {
                    tracing::debug!(controller = controller.name(), %key, %error, "trying again");
                } else {
                    tracing::warn!(controller = controller.name(), %key, %error, "reconciling failed, trying again");
                }
                queue.done(key.clone());
                queue.retry(key);
            }
        }
    }
}

async fn resync<C: Controller>(controller: Arc<C>, queue: Arc<Queue>) {
    let mut ticks = tokio::time::interval(RESYNC);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        for key in controller.keys() {
            queue.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use weir_client::fake::FakeServer;
    use weir_client::informer::Options;
    use weir_proto::core::v1::ConfigMap;

    /// Fails twice, then succeeds and says so.
    struct Flaky {
        configs: Informer<ConfigMap>,
        calls: AtomicUsize,
        succeeded: tokio::sync::mpsc::UnboundedSender<ObjectKey>,
    }

    impl Controller for Flaky {
        fn name(&self) -> &'static str {
            "flaky"
        }

        fn keys(&self) -> Vec<ObjectKey> {
            self.configs.list().iter().map(|config| ObjectKey::of(config.as_ref())).collect()
        }

        async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
            if self.calls.fetch_add(1, Ordering::Relaxed) < 2 {
                return Err(Error::Behind(weir_client::informer::Behind { kind: "x", seconds: 0 }));
            }
            let _ = self.succeeded.send(key.clone());
            Ok(Next::Change)
        }
    }

    #[tokio::test]
    async fn a_change_brings_its_key_and_a_failure_brings_it_again() {
        let server = FakeServer::default();
        let configs = Informer::start(server.client().api::<ConfigMap>(), Options::default());
        let (succeeded, mut keys) = tokio::sync::mpsc::unbounded_channel();
        let flaky = Flaky { configs: configs.clone(), calls: AtomicUsize::new(0), succeeded };
        let cancel = CancellationToken::new();
        let running = tokio::spawn(Runner::new(flaky, 2).on_each(&configs).run(cancel.clone()));
        let mut config = ConfigMap::default();
        config.meta_mut().namespace = "default".to_owned();
        config.meta_mut().name = "a".to_owned();
        server.put(&config);
        assert_eq!(keys.recv().await, Some(ObjectKey::new("default", "a")));
        cancel.cancel();
        running.await.unwrap();
    }
}
