//! Packets as the kernel hands them over. All loads, stores and casts of packet memory are here.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::{bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes};
use aya_ebpf::programs::{TcContext, XdpContext};
use weir_ebpf_common::DropReason;
use weir_packet::frame::L4Change;
use weir_packet::{Frame, FrameMut};

/// A packet on tcx. Read and written by helpers, which cope with data that is not linear and keep the checksum state
/// of the buffer right.
pub(crate) struct Skb {
    ctx: TcContext,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(ctx: TcContext) -> Self {
        Self { ctx }
    }

    /// The interface that the program is attached to.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    /// The interface by which the packet came into the node; zero if the node itself made it.
    #[inline(always)]
    pub(crate) fn arrived_by(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx.skb.skb).ingress_ifindex }
    }

    #[inline(always)]
    pub(crate) fn length(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.ctx.as_ptr()
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], DropReason> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes N bytes, for which there is room, and checks the offset.
        let code =
            unsafe { bpf_skb_load_bytes(self.as_ptr(), offset as u32, bytes.as_mut_ptr().cast(), N as u32) };
        if code == 0 {
            // SAFETY: on success all N bytes were written.
            Ok(unsafe { bytes.assume_init() })
        } else {
            Err(DropReason::Truncated)
        }
    }
}

impl FrameMut for Skb {
    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), DropReason> {
        // SAFETY: the helper reads N bytes, which are there, and checks the offset.
        let code = unsafe {
            bpf_skb_store_bytes(self.ctx.skb.skb, offset as u32, bytes.as_ptr().cast(), N as u32, 0)
        };
        if code == 0 { Ok(()) } else { Err(DropReason::WriteFailed) }
    }

    #[inline(always)]
    fn adjust_l4(&mut self, offset: usize, l4: L4Change) -> Result<(), DropReason> {
        let udp = if l4.is_udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo = u64::from(BPF_F_PSEUDO_HDR);
        for (change, flags) in [(l4.pseudo_header, udp | pseudo), (l4.header, udp)] {
            // SAFETY: a plain call; the helper checks the offset.
            let code = unsafe {
                bpf_l4_csum_replace(self.ctx.skb.skb, offset as u32, 0, u64::from(change.raw()), flags)
            };
            if code != 0 {
                return Err(DropReason::WriteFailed);
            }
        }
        Ok(())
    }
}

/// A packet in the driver. Read and written in place: checksums are complete here, and it is one piece of memory.
pub(crate) struct Xdp {
    ctx: XdpContext,
}

impl Xdp {
    /// No header that the programs look at is further in. Also tells the verifier how far a pointer may go.
    const FURTHEST: usize = 255;

    #[inline(always)]
    pub(crate) fn new(ctx: XdpContext) -> Self {
        Self { ctx }
    }

    /// The interface that the packet came by.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.ctx.as_ptr()
    }

    /// `N` bytes of the packet. Derived afresh for each access.
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Result<*mut [u8; N], DropReason> {
        if offset > Self::FURTHEST {
            return Err(DropReason::Truncated);
        }
        let start = self.ctx.data() + offset;
        if start + N > self.ctx.data_end() { Err(DropReason::Truncated) } else { Ok(start as *mut [u8; N]) }
    }
}

impl Frame for Xdp {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], DropReason> {
        // SAFETY: within the packet, as checked.
        self.bytes(offset).map(|bytes| unsafe { *bytes })
    }
}

impl FrameMut for Xdp {
    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), DropReason> {
        // SAFETY: as above.
        self.bytes(offset).map(|place| unsafe { *place = *bytes })
    }
}
