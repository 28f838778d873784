//! Takes and lets go of objects, by `ownerReferences`: performs what [`crate::owners::claim`] decides.

use std::sync::Arc;

use weir_client::Client;
use weir_proto::Resource;
use weir_proto::labels::Selector;

use crate::Error;
use crate::owners::{self, Claim};

/// The objects that `owner` controls when this is done, of those that may concern it. Each write is refused if the
/// object was changed since it was seen.
pub(crate) async fn claim<O: Resource, R: Resource>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    candidates: Vec<Arc<R>>,
) -> Result<Vec<Arc<R>>, Error> {
    let mut controlled = Vec::with_capacity(candidates.len());
    let mut may_adopt = None;
    for candidate in candidates {
        let meta = Resource::meta(candidate.as_ref());
        match owners::claim(Resource::meta(owner), selector, meta) {
            Claim::Foreign => {}
            Claim::Own => controlled.push(candidate),
            Claim::Release => release(client, owner, candidate.as_ref()).await?,
            Claim::Adopt => {
                // The copy of the owner may be old: ask once whether it still is and stays.
                let may = match may_adopt {
                    Some(may) => may,
                    None => *may_adopt.insert(stays(client, owner).await?),
                };
                if may {
                    controlled.push(Arc::new(adopt(client, owner, candidate.as_ref()).await?));
                }
            }
        }
    }
    Ok(controlled)
}

async fn stays<O: Resource>(client: &Client, owner: &O) -> Result<bool, Error> {
    let meta = Resource::meta(owner);
    let now = client.namespaced::<O>(&meta.namespace).get_opt(&meta.name).await?;
    Ok(now.is_some_and(|now| {
        let now = Resource::meta(&now);
        now.uid == meta.uid && now.deletion_timestamp.is_none()
    }))
}

async fn adopt<O: Resource, R: Resource>(client: &Client, owner: &O, object: &R) -> Result<R, Error> {
    let mut object = object.clone();
    let meta = Resource::meta_mut(&mut object);
    meta.owner_references.push(owners::controller_reference(owner));
    tracing::info!(object = meta.name, owner = Resource::meta(owner).name, "adopting");
    Ok(client.namespaced::<R>(&meta.namespace.clone()).update(&object).await?)
}

async fn release<O: Resource, R: Resource>(client: &Client, owner: &O, object: &R) -> Result<(), Error> {
    let mut object = object.clone();
    let uid = &Resource::meta(owner).uid;
    let meta = Resource::meta_mut(&mut object);
    meta.owner_references.retain(|reference| reference.uid != *uid);
    tracing::info!(object = meta.name, owner = Resource::meta(owner).name, "releasing");
    client.namespaced::<R>(&meta.namespace.clone()).update(&object).await?;
    Ok(())
}
