//! What lies in a pipe, read without taking it out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use icecore_images::pipe::PipeChunk;
use rustix::io::Errno;
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, tee,
};

/// The queue of the pipe that `reader` reads, packets told apart; `None` if it
/// holds more than a pipe of ours may. `packets`: a writer is in packet mode,
/// so a single piece is taken for a packet.
///
/// A pipe into which both packets and ordinary data were written may come back
/// with the ordinary data joined to the packet after it, as a large read would
/// also have shown it.
pub(super) fn peek(reader: &OwnedFd, packets: bool) -> io::Result<Option<Vec<PipeChunk>>> {
    let queued = rustix::io::ioctl_fionread(reader)?;
    if queued == 0 {
        return Ok(Some(Vec::new()));
    }
    let Some(copy) = copy(reader, queued)? else {
        return Ok(None);
    };
    let mut pieces = Vec::new();
    let mut buffer = vec![0; queued as usize];
    loop {
        match rustix::io::read(&copy, &mut buffer[..]) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(n) => pieces.push(buffer[..n].to_vec()),
            Err(e) => return Err(e.into()),
        }
    }
    let packet = pieces.len() > 1 || packets || is_packet(reader, queued)?;
    let chunk = |bytes: Vec<u8>| PipeChunk {
        bytes: bytes.into(),
        packet,
    };
    Ok(Some(pieces.into_iter().map(chunk).collect()))
}

/// Whether the only piece in the queue is a packet: reading one byte of a
/// packet drops the rest of it.
fn is_packet(reader: &OwnedFd, queued: u64) -> io::Result<bool> {
    let Some(copy) = copy(reader, queued)? else {
        return Ok(false);
    };
    rustix::io::read(&copy, &mut [0; 1][..])?;
    Ok(rustix::io::ioctl_fionread(&copy)? != queued - 1)
}

/// The read end of a pipe of ours with the same contents.
fn copy(from: &OwnedFd, queued: u64) -> io::Result<Option<OwnedFd>> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Where this is not allowed the queue may still fit: see below.
    let _ = fcntl_setpipe_size(&writer, fcntl_getpipe_size(from)?);
    tee(
        from.as_fd(),
        &writer,
        queued as usize,
        SpliceFlags::NONBLOCK,
    )?;
    let copied = rustix::io::ioctl_fionread(&reader)?;
    Ok((copied == queued).then_some(reader))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(queue: &[PipeChunk]) -> Vec<(&[u8], bool)> {
        queue.iter().map(|c| (&c.bytes.0[..], c.packet)).collect()
    }

    #[test]
    fn looking_takes_nothing_out() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        assert_eq!(peek(&reader, false).unwrap().unwrap(), []);
        rustix::io::write(&writer, b"one").unwrap();
        rustix::io::write(&writer, b"two").unwrap();
        for _ in 0..2 {
            let queue = peek(&reader, false).unwrap().unwrap();
            assert_eq!(pieces(&queue), [(&b"onetwo"[..], false)]);
        }
        // The last page of the queue still takes what is written next.
        rustix::io::write(&writer, b"three").unwrap();
        let mut buffer = [0; 20];
        let n = rustix::io::read(&reader, &mut buffer[..]).unwrap();
        assert_eq!(&buffer[..n], b"onetwothree");
    }

    #[test]
    fn packets_are_told_apart() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::DIRECT).unwrap();
        rustix::io::write(&writer, b"first").unwrap();
        let queue = peek(&reader, false).unwrap().unwrap();
        assert_eq!(pieces(&queue), [(&b"first"[..], true)]);
        rustix::io::write(&writer, b"2nd").unwrap();
        let queue = peek(&reader, false).unwrap().unwrap();
        assert_eq!(pieces(&queue), [(&b"first"[..], true), (&b"2nd"[..], true)]);
    }

    #[test]
    fn a_full_pipe_of_a_megabyte() {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        fcntl_setpipe_size(&writer, 1 << 20).unwrap();
        let data: Vec<u8> = (0..1 << 20).map(|i| (i / 4096 + i) as u8).collect();
        assert_eq!(rustix::io::write(&writer, &data).unwrap(), data.len());
        let queue = peek(&reader, false).unwrap().unwrap();
        assert_eq!(pieces(&queue), [(&data[..], false)]);
    }
}
