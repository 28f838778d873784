//! The writes of a leader count only as long as it leads.
//!
//! A leader names the Lease by which it leads with each write ([`Claim`], from the request's metadata). The Lease becomes a
//! compare of the write's own transaction: whatever is between the decision and the store (a process that was stopped,
//! a connection that stalled), a write that arrives after another took the Lease changes nothing.
//!
//! That costs a look into the cache and one more compare. A Lease that was only renewed since is seen in the answer,
//! and the write is tried again.

use weir_proto::Resource;
use weir_proto::coordination::v1::Lease;
use weir_proto::meta::v1::StatusCause;
use weir_proto::status::ApiError;
use weir_store::{Txn, TxnOutcome};

use super::{Context, Registry, Target, decode};
use crate::auth;

/// The request metadata in which a leader says by what right it writes. Binary, since names may be any text.
pub(crate) const METADATA: &str = "weir-leadership-bin";
/// Why a write was refused, for machines.
const LOST: &str = "LeadershipLost";

/// By what right a leader writes: `NAMESPACE/NAME/TRANSITIONS/HOLDER` of its Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub namespace: String,
    pub name: String,
    pub transitions: i32,
    pub holder: String,
}

impl Claim {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let malformed = || {
            let text = String::from_utf8_lossy(bytes);
            ApiError::bad_request(format!("{METADATA}: {text:?} is not namespace/name/transitions/holder"))
        };
        let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
        let mut parts = text.splitn(4, '/');
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or_else(malformed);
        let (namespace, name) = (part()?.to_owned(), part()?.to_owned());
        let transitions = part()?.parse().map_err(|_| malformed())?;
        Ok(Claim { namespace, name, transitions, holder: part()?.to_owned() })
    }

    /// Whether the Lease still is as it was won.
    fn holds(&self, lease: &Lease) -> bool {
        let spec = lease.spec();
        spec.holder_identity.as_deref() == Some(self.holder.as_str())
            && spec.lease_transitions.unwrap_or(0) == self.transitions
    }

    fn lost(&self, lease: Option<&Lease>) -> ApiError {
        let holder = lease.and_then(|lease| lease.spec().holder_identity.as_deref()).unwrap_or_default();
        let now = match (lease, holder) {
            (None, _) => "the lease does not exist".to_owned(),
            (Some(_), "") => "nobody holds it".to_owned(),
            (Some(_), holder) => format!("{holder} holds it"),
        };
        let why = format!("{} does not lead any more, by lease {}: {now}", self.holder, self.name);
        tracing::info!(lease = self.name, holder = self.holder, now, "refused a write of a former leader");
        let mut error = auth::forbidden(Lease::KIND, &self.name, &why);
        let cause = StatusCause { field: METADATA.to_owned(), message: why, reason: LOST.to_owned() };
        error.0.details.get_or_insert_default().causes = vec![cause];
        error
    }
}

/// What a write insists on; nothing, for who leads nobody.
#[derive(Debug)]
pub(super) struct Fence<'a> {
    claim: Option<(&'a Claim, String)>,
    /// Of the Lease, as far as is known.
    revision: i64,
}

impl Registry {
    /// Refuses a write whose leader is known to be deposed.
    pub(super) async fn fence<'a>(&self, context: &'a Context) -> Result<Fence<'a>, ApiError> {
        let Some(claim) = &context.claim else { return Ok(Fence { claim: None, revision: 0 }) };
        let target = Target::new(Lease::KIND, &claim.namespace, &claim.name);
        let key = target.key();
        if let Some(cached) = self.peek::<Lease>(&claim.namespace, &claim.name)
            && cached.typed().is_some_and(|lease| claim.holds(lease))
        {
            return Ok(Fence { claim: Some((claim, key)), revision: cached.revision });
        }
        // The cache may not have heard of a new leader yet.
        let stored = match self.read(&target).await {
            Ok(stored) => stored,
            Err(error) if error.is_not_found() => return Err(claim.lost(None)),
            Err(error) => return Err(error),
        };
        match stored.typed() {
            Some(lease) if claim.holds(lease) => {
                Ok(Fence { claim: Some((claim, key)), revision: stored.revision })
            }
            lease => Err(claim.lost(lease)),
        }
    }
}

impl Fence<'_> {
    /// The last compare of a transaction is the Lease.
    pub(super) fn guard(&self, txn: Txn) -> Txn {
        match &self.claim {
            Some((_, key)) => txn.unchanged(key, self.revision),
            None => txn,
        }
    }

    /// After a transaction that [`Fence::guard`] has seen and that was not committed: refuses if that is because
    /// the Lease was lost; if it was only renewed, the next attempt builds on that.
    pub(super) fn review(&mut self, outcome: &TxnOutcome) -> Result<(), ApiError> {
        let Some((claim, _)) = &self.claim else { return Ok(()) };
        let Some(Some(kv)) = outcome.current.last() else { return Err(claim.lost(None)) };
        if kv.mod_revision == self.revision {
            return Ok(());
        }
        let lease = decode(Lease::KIND, kv)?;
        match lease.typed() {
            Some(lease) if claim.holds(lease) => {
                self.revision = kv.mod_revision;
                Ok(())
            }
            lease => Err(claim.lost(lease)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_proto::core::v1::ConfigMap;
    use weir_store::Store;

    use super::*;
    use crate::allocate::Ranges;
    use crate::auth::User;
    use crate::registry::DeleteOptions;

    const HOLDER: &str = "host/1-2-3";

    struct Fixture {
        registry: Registry,
        store: Arc<dyn Store>,
        _dir: tempfile::TempDir,
    }

    impl Fixture {
        async fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store: Arc<dyn Store> =
                Arc::new(weir_store::embedded::open(dir.path().join("store")).unwrap());
            let registry =
                Registry::new(store.clone(), Ranges::default(), std::time::Duration::from_secs(3600));
            for name in ["kube-system", "default"] {
                let mut namespace = weir_proto::core::v1::Namespace::default();
                namespace.meta_mut().name = name.to_owned();
                registry.create_own(namespace).await.unwrap();
            }
            let mut lease = Lease::default();
            lease.meta_mut().namespace = "kube-system".to_owned();
            lease.meta_mut().name = "boss".to_owned();
            lease.spec_mut().lease_duration_seconds = Some(15);
            lease.spec_mut().holder_identity = Some(HOLDER.to_owned());
            lease.spec_mut().lease_transitions = Some(3);
            registry.create_own(lease).await.unwrap();
            Fixture { registry, store, _dir: dir }
        }

        /// Fills the cache, once, and never tells it of anything again: a cache that lags behind.
        async fn freeze_cache(&self) {
            let stop = tokio_util::sync::CancellationToken::new();
            self.registry.start(&stop);
            let cache = self.registry.cache_of::<Lease>().unwrap();
            cache.ready().await.unwrap();
            assert!(cache.fresh().await.unwrap());
            stop.cancel();
            // All run on this one thread: the feed sees that and ends before we go on.
            for _ in 0..16 {
                tokio::task::yield_now().await;
            }
        }

        async fn change_lease(&self, change: impl Fn(&mut Lease)) {
            let target = Target::new(Lease::KIND, "kube-system", "boss");
            let mut lease = self.registry.read(&target).await.unwrap().typed::<Lease>().unwrap().clone();
            change(&mut lease);
            self.registry.update(&Context::system(), &target, Box::new(lease)).await.unwrap();
        }

        async fn renew(&self) {
            self.change_lease(|lease| {
                lease.spec_mut().renew_time = Some(weir_proto::meta::v1::MicroTime::now())
            })
            .await;
        }

        async fn depose(&self) {
            self.change_lease(|lease| {
                lease.spec_mut().holder_identity = Some("other".to_owned());
                lease.spec_mut().lease_transitions = Some(4);
            })
            .await;
        }
    }

    fn leader() -> Context {
        let claim = Claim::parse(format!("kube-system/boss/3/{HOLDER}").as_bytes()).unwrap();
        Context { claim: Some(Arc::new(claim)), ..Context::new(User::system("leader")) }
    }

    fn config_map(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.meta_mut().namespace = "default".to_owned();
        object.meta_mut().name = name.to_owned();
        object
    }

    /// Each kind of write; the objects `old` and `older` are there.
    async fn write_all(registry: &Registry, context: &Context) -> Vec<Result<(), ApiError>> {
        let target = |name: &str| Target::new(ConfigMap::KIND, "default", name);
        let mut changed = config_map("old");
        changed.data.insert("by".to_owned(), "leader".to_owned());
        let options = DeleteOptions::default();
        vec![
            registry.create(context, &target(""), Box::new(config_map("new"))).await.map(drop),
            registry.update(context, &target("old"), Box::new(changed)).await.map(drop),
            registry.delete(context, &target("older"), &options).await.map(drop),
        ]
    }

    async fn seeded() -> Fixture {
        let fixture = Fixture::start().await;
        for name in ["old", "older"] {
            fixture.registry.create_own(config_map(name)).await.unwrap();
        }
        fixture
    }

    #[tokio::test]
    async fn a_leader_writes_however_often_its_lease_was_renewed_since_the_cache_looked() {
        let fixture = seeded().await;
        fixture.freeze_cache().await;
        fixture.renew().await;
        fixture.renew().await;
        for written in write_all(&fixture.registry, &leader()).await {
            written.unwrap();
        }
    }

    #[tokio::test]
    async fn nothing_of_a_deposed_leader_reaches_the_store_even_where_the_cache_still_believes_it() {
        let fixture = seeded().await;
        fixture.freeze_cache().await;
        fixture.depose().await;
        let before =
            fixture.store.list("/registry/configmaps/", weir_store::ListOptions::default()).await.unwrap();
        for refused in write_all(&fixture.registry, &leader()).await {
            let error = refused.unwrap_err();
            assert_eq!((error.code(), error.causes()[0].reason.as_str()), (403, LOST), "{error}");
            assert!(error.message().contains("other holds it"), "{error}");
        }
        let after =
            fixture.store.list("/registry/configmaps/", weir_store::ListOptions::default()).await.unwrap();
        assert_eq!((before.revision, before.items), (after.revision, after.items));
    }

    #[tokio::test]
    async fn a_lease_that_was_given_up_or_won_anew_or_removed_is_lost_to_the_former_leader() {
        for lose in
            [(|lease: &mut Lease| lease.spec_mut().holder_identity = None) as fn(&mut Lease), |lease| {
                lease.spec_mut().lease_transitions = Some(5)
            }]
        {
            let fixture = seeded().await;
            fixture.change_lease(lose).await;
            for refused in write_all(&fixture.registry, &leader()).await {
                assert_eq!(refused.unwrap_err().code(), 403);
            }
        }
        let fixture = seeded().await;
        let target = Target::new(Lease::KIND, "kube-system", "boss");
        fixture.registry.delete(&Context::system(), &target, &DeleteOptions::default()).await.unwrap();
        let error = fixture.registry.fence(&leader()).await.unwrap_err();
        assert!(error.message().contains("does not exist"), "{error}");
    }

    #[test]
    fn claims_are_read_and_nonsense_is_refused() {
        let claim = Claim::parse(b"kube-system/boss/3/host/1-2-3").unwrap();
        assert_eq!((claim.name.as_str(), claim.transitions, claim.holder.as_str()), ("boss", 3, HOLDER));
        for bad in [&b""[..], b"a/b/c/d", b"a/b/1", b"a/b/1/", b"/b/1/d", b"\xff/b/1/d"] {
            assert_eq!(Claim::parse(bad).unwrap_err().code(), 400);
        }
    }
}
