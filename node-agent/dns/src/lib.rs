//! Cluster DNS of a node: the names of services and pods, answered on the node itself.
