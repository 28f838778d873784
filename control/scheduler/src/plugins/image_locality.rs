//! Prefers nodes that have the pod's images, by size, the more so the more nodes have them: a lone copy draws
//! every pod to one node.

use crate::cluster::Cluster;
use crate::framework::{Reads, Score, scaled};
use crate::node::Candidate;
use crate::pod::Shape;

#[derive(Clone, Copy, Debug)]
pub struct ImageLocality;

const MEBIBYTE: i64 = 1 << 20;
/// Less than this is fetched in no time.
const MIN_SIZE: i64 = 23 * MEBIBYTE;
/// More than this per container makes no difference.
const MAX_SIZE_PER_CONTAINER: i64 = 1000 * MEBIBYTE;

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn score(&self, pod: &Shape, node: Candidate<'_>, cluster: &Cluster) -> i64 {
        let nodes = cluster.candidate_count().max(1) as i64;
        let max = MAX_SIZE_PER_CONTAINER * pod.images.len().max(1) as i64;
        let mut present = 0_i64;
        for image in &pod.images {
            if let Some((_, size)) = node.spec.images.iter().find(|(name, _)| name == image) {
                let spread = cluster.nodes_with_image(image) as i64;
                present = present.saturating_add(size.saturating_mul(spread) / nodes);
            }
        }
        scaled(present.clamp(MIN_SIZE, max) - MIN_SIZE, max - MIN_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::MAX_SCORE;
    use crate::testing::{NodeBuilder, shape};

    #[test]
    fn a_node_with_the_image_is_better_the_larger_and_commoner_it_is() {
        let with = |name: &str, size: i64| {
            NodeBuilder::new(name).change(|spec| spec.images = vec![("big:1".to_owned(), size * MEBIBYTE)])
        };
        let mut cluster = Cluster::default();
        for node in [with("one", 2000), with("two", 20), NodeBuilder::new("three"), NodeBuilder::new("four")]
        {
            node.join(&mut cluster);
        }
        let pod = Shape { images: vec!["big:1".to_owned()], ..shape() };
        let score = |name: &str| {
            let slot = cluster.slot(name).unwrap();
            ImageLocality.score(&pod, cluster.candidate(slot).unwrap(), &cluster)
        };
        // Half of the nodes have it: half of the size counts, which is the maximum of one container.
        assert_eq!((score("one"), score("two"), score("three")), (MAX_SCORE, 0, 0));
    }
}
