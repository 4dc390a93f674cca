//! What is awake of a host that is off: its network card. Ends when a magic packet for it arrives.
//!
//! `homelab-firmware 02:00:00:00:00:40`

use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

fn main() -> anyhow::Result<()> {
    let mac = std::env::args().nth(1).context("name the hardware address of the card")?;
    let mac: Vec<u8> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    let wanted = [vec![0xff; 6], mac.repeat(16)].concat();
    // A card hears frames, whether its host has an address or not.
    let card =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll)
            .context("listen for frames")?;
    let mut frame = [0; 2048];
    loop {
        let length = recv(card.as_raw_fd(), &mut frame, MsgFlags::empty())?;
        if frame[..length].windows(wanted.len()).any(|part| part == wanted) {
            return Ok(());
        }
    }
}
