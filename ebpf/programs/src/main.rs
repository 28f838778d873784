//! The programs that a node's kernel runs.
//!
//! | program | hook | does |
//! |---|---|---|
//! | `connect4` … `getpeername6` | the node's cgroup | picks a backend when a socket connects or sends |
//! | `from_pod` | tcx ingress of a pod's veth on the node | checks the source, translates, delivers |
//! | `to_pod` | tcx egress of the same | translates answers of the node itself |
//! | `from_uplink` | tcx ingress of the uplink | NodePorts, answers from other nodes, delivery to pods |
//! | `to_uplink` | tcx egress of the uplink | translates answers of the node itself |
//! | `uplink_xdp` | XDP on the uplink, optional | sends NodePort traffic of other nodes' backends back out |
//!
//! A packet program parses, decides, then performs: nothing in the packet changes before the decision stands. What
//! goes wrong is a `DropReason`, counted and reported in one place, `verdict`. No kernel struct is read.
#![no_std]
#![no_main]

mod conntrack;
mod frame;
mod maps;
mod pod;
mod route;
mod service;
mod socket;
mod uplink;
mod verdict;
mod xdp;

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use weir_ebpf_common::Hook;

use frame::{Skb, Xdp};

#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    verdict::run(Skb::new(ctx), Hook::FromPod, pod::FromPod)
}

#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    verdict::run(Skb::new(ctx), Hook::ToPod, conntrack::FromNode)
}

#[classifier]
pub(crate) fn from_uplink(ctx: TcContext) -> i32 {
    verdict::run(Skb::new(ctx), Hook::FromUplink, uplink::FromUplink)
}

#[classifier]
pub(crate) fn to_uplink(ctx: TcContext) -> i32 {
    verdict::run(Skb::new(ctx), Hook::ToUplink, conntrack::FromNode)
}

#[xdp]
pub(crate) fn uplink_xdp(ctx: XdpContext) -> u32 {
    xdp::run(Xdp::new(ctx))
}

/// The socket programs of one family. The kernel lets a program touch the address fields of its own family alone, so
/// each is compiled for one.
macro_rules! socket_programs {
    ($is_v6:literal, $connect:ident, $sendmsg:ident, $recvmsg:ident, $getpeername:ident) => {
        #[cgroup_sock_addr($connect)]
        pub(crate) fn $connect(ctx: SockAddrContext) -> i32 {
            socket::connect(&address::<$is_v6>(ctx))
        }

        #[cgroup_sock_addr($sendmsg)]
        pub(crate) fn $sendmsg(ctx: SockAddrContext) -> i32 {
            socket::send(&address::<$is_v6>(ctx))
        }

        #[cgroup_sock_addr($recvmsg)]
        pub(crate) fn $recvmsg(ctx: SockAddrContext) -> i32 {
            socket::restore(&address::<$is_v6>(ctx))
        }

        #[cgroup_sock_addr($getpeername)]
        pub(crate) fn $getpeername(ctx: SockAddrContext) -> i32 {
            socket::restore(&address::<$is_v6>(ctx))
        }
    };
}

socket_programs!(false, connect4, sendmsg4, recvmsg4, getpeername4);
socket_programs!(true, connect6, sendmsg6, recvmsg6, getpeername6);

#[inline(always)]
fn address<const IS_V6: bool>(ctx: SockAddrContext) -> socket::SocketAddress<IS_V6> {
    let pointer: *mut bpf_sock_addr = ctx.sock_addr;
    socket::SocketAddress::new(pointer)
}

/// The helpers that the programs call ask for a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never reached: the verifier refuses a program in which it could be.
    unsafe { core::hint::unreachable_unchecked() }
}
