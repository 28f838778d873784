//! Access to the bytes of a packet, from its Ethernet header on.

use weir_ebpf_common::DropReason;

use crate::checksum::Change;

pub trait Frame {
    /// Copies `N` bytes out; [`DropReason::Truncated`] when the packet ends before.
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], DropReason>;
}

pub trait FrameMut: Frame {
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), DropReason>;

    /// Brings the TCP or UDP checksum at `offset` in line with what changed in the pseudo header and in the header
    /// itself. They are told apart because a checksum that the network card is to complete covers only the former.
    #[inline(always)]
    fn adjust_l4(&mut self, offset: usize, l4: L4Change) -> Result<(), DropReason> {
        let old: [u8; 2] = self.load(offset)?;
        if l4.is_udp && old == [0; 2] {
            return Ok(());
        }
        let mut new = l4.pseudo_header.and(l4.header).apply(old);
        if l4.is_udp && new == [0; 2] {
            new = [0xff; 2];
        }
        self.store(offset, &new)
    }
}

/// How TCP and UDP checksums are affected by a rewrite.
#[derive(Clone, Copy, Debug)]
pub struct L4Change {
    pub pseudo_header: Change,
    pub header: Change,
    /// UDP has no checksum when it is zero, and never becomes zero by arithmetic (RFC 768).
    pub is_udp: bool,
}

/// Bytes in memory.
impl Frame for [u8] {
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], DropReason> {
        self.get(offset..).and_then(|rest| rest.first_chunk()).copied().ok_or(DropReason::Truncated)
    }
}

impl FrameMut for [u8] {
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), DropReason> {
        let place =
            self.get_mut(offset..).and_then(|rest| rest.first_chunk_mut()).ok_or(DropReason::Truncated)?;
        *place = *bytes;
        Ok(())
    }
}
