//! The wire contracts: `ctrl.v1` (control API), `krane.v1` (runtime) and
//! `gateway.v1` (route feed), and Depot's, which is only called. Generated code
//! only; field numbers are fixed by the protos and only ever extended.

#![allow(clippy::all, missing_docs)]

/// The control API that the CLI and other clients use.
pub mod ctrl {
    pub mod v1 {
        tonic::include_proto!("ctrl.v1");
    }
}

/// The runtime API: one contract over Docker and Kubernetes.
pub mod krane {
    pub mod v1 {
        tonic::include_proto!("krane.v1");
    }
}

/// The feed of routes from the control plane to the gateways.
pub mod gateway {
    pub mod v1 {
        tonic::include_proto!("gateway.v1");
    }
}

/// Depot's API.
pub mod depot {
    pub mod cli {
        pub mod v1 {
            tonic::include_proto!("depot.cli.v1");
        }
    }
    pub mod core {
        pub mod v1 {
            tonic::include_proto!("depot.core.v1");
        }
    }
}

/// Encoded `FileDescriptorSet` of what is served, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
