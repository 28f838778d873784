//! Lists: selectors, pages, one revision.

use weir_proto::Resource;
use weir_proto::core::v1::{ConfigMap, Pod};
use weir_proto::weir::v1 as pb;

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

#[tokio::test]
async fn a_page_of_what_is_forgotten_can_be_had_as_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let store: std::sync::Arc<dyn weir_store::Store> =
        std::sync::Arc::new(weir_store::embedded::open(dir.path().join("store")).unwrap());
    let cluster = Cluster::over(store.clone(), dir, |_| {}).await;
    let admin = cluster.admin();
    for index in 0..5 {
        admin.create(&config_map(&format!("m{index}"))).await.unwrap();
    }
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let (_, first) = cluster.rest("GET", &format!("{MAPS}?limit=2"), "").await;
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    admin.delete::<ConfigMap>("default", "m3", |_| {}).await.unwrap();
    let last = admin.create(&config_map("m9")).await.unwrap();
    store.compact(last.meta().resource_version.parse().unwrap()).await.unwrap();
    let (code, expired) = cluster.rest("GET", &format!("{MAPS}?limit=2&continue={token}"), "").await;
    assert_eq!((code, expired["reason"].as_str()), (410, Some("Expired")), "{expired}");
    let fresh = expired["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = cluster.rest("GET", &format!("{MAPS}?continue={fresh}"), "").await;
    let found: Vec<_> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!((code, found), (200, vec!["m2", "m4", "m9"]));
    let (code, _) = cluster.rest("GET", &format!("{MAPS}?continue={fresh}&resourceVersion=1"), "").await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn a_list_shows_the_moment_that_is_asked_for() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let one = admin.create(&config_map("a")).await.unwrap().meta().resource_version.clone();
    let two = admin.create(&config_map("b")).await.unwrap().meta().resource_version.clone();
    let list = |query: String| {
        let cluster = &cluster;
        async move {
            let (code, list) =
                cluster.rest("GET", &format!("/api/v1/namespaces/default/configmaps?{query}"), "").await;
            let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            (code, list["items"].as_array().map(Vec::len), revision)
        }
    };
    assert_eq!(
        list(format!("resourceVersion={one}&resourceVersionMatch=Exact")).await,
        (200, Some(1), one.clone())
    );
    assert_eq!(list(format!("resourceVersion={one}&limit=500")).await, (200, Some(1), one.clone()));
    let (code, count, revision) =
        list(format!("resourceVersion={two}&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!((code, count), (200, Some(2)));
    assert!(revision.parse::<i64>().unwrap() >= two.parse().unwrap());
    assert_eq!(list("resourceVersion=0".to_owned()).await.0, 200);
    assert_eq!(list("resourceVersion=999999999".to_owned()).await.0, 410);
}

#[tokio::test]
async fn the_pods_of_a_node_are_listed_page_by_page() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for index in 0..9 {
        let mut made = pod(&format!("p{index}"));
        made.spec_mut().node_name = format!("n{}", index % 3);
        admin.create(&made).await.unwrap();
    }
    admin.delete::<Pod>("default", "p4", |r| r.grace_period_seconds = Some(0)).await.unwrap();
    let page = |token: String| {
        let of_node = |r: &mut pb::ListRequest| {
            r.limit = 1;
            r.field_selector = "spec.nodeName=n1".to_owned();
            r.continue_token = token;
        };
        admin.list::<Pod>("", of_node)
    };
    let (first, more) = page(String::new()).await.unwrap();
    let (second, end) = page(more.continue_token).await.unwrap();
    assert_eq!((names(&first), names(&second)), (vec!["p1"], vec!["p7"]));
    assert!(end.continue_token.is_empty());
}
