//! Reads lines and hands the conversations on them to the workers.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufRead, BufReader, Read},
    sync::Arc,
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
};

use super::{Import, ImportLimits, Job, told};
use crate::domain::Conversation;

/// Bytes of lines that may be on their way at once; a single longer line goes alone.
const BYTES_IN_FLIGHT_MAX: usize = 64 * 1024 * 1024;

/// The mark that some programs begin a file in UTF-8 with. It says nothing, and is passed over there.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The same in UTF-16, which no line can be read of.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// The most that stands around a line and does not count: the mark, and both characters of the line's end.
const AROUND_BYTES_MAX: usize = BYTE_ORDER_MARK.len() + 2;

/// Reads line by line and hands conversations to the workers; runs on a thread that may block.
pub(super) fn read_lines(
    import: &Import,
    input: Box<dyn Read + Send>,
    limits: ImportLimits,
    queues: &[mpsc::Sender<Job>],
    runtime: &Handle,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(BYTES_IN_FLIGHT_MAX));
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let mut line = Vec::new();
    for number in 1.. {
        let bytes = read_line(&mut input, &mut line, limits.line_bytes_max + AROUND_BYTES_MAX)?;
        if bytes == 0 {
            break;
        }
        let text = match text_of(&line, number)? {
            text if bytes == line.len() && text.len() <= limits.line_bytes_max => text.trim_ascii(),
            _ => {
                let max = limits.line_bytes_max;
                import.refuse_line(
                    number,
                    bytes,
                    &format!("is longer than the {max} bytes of import_line_bytes_max"),
                );
                continue;
            }
        };
        if text.is_empty() {
            import.advance(bytes);
            continue;
        }
        let share = u32::try_from(bytes.min(BYTES_IN_FLIGHT_MAX)).unwrap_or(u32::MAX);
        let room = runtime
            .block_on(Arc::clone(&room).acquire_many_owned(share))
            .map_err(io::Error::other)?;
        let conversation = match Conversation::read(text) {
            Ok(conversation) => conversation,
            Err(error) => {
                let reason = match text.starts_with(BYTE_ORDER_MARK) {
                    true => {
                        "begins with a byte-order mark, which may stand at the beginning of the input only"
                            .to_owned()
                    }
                    false => told(&error),
                };
                import.refuse_line(number, bytes, &reason);
                continue;
            }
        };
        let job = Job {
            line: number,
            bytes,
            _room: room,
            conversation,
        };
        // A queue is closed only when its worker stopped, which says why by itself.
        if queues[worker_of(&job.conversation, queues.len())]
            .blocking_send(job)
            .is_err()
        {
            break;
        }
    }
    Ok(())
}

/// The line without its end; the first one of the input without a byte-order mark.
///
/// # Errors
/// The input is UTF-16.
fn text_of(line: &[u8], number: u64) -> io::Result<&[u8]> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if number > 1 {
        return Ok(text);
    }
    match UTF_16_MARKS.iter().any(|mark| text.starts_with(mark)) {
        true => Err(io::Error::other("it is UTF-16, and must be UTF-8")),
        false => Ok(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)),
    }
}

fn worker_of(conversation: &Conversation, workers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    conversation.id.hash(&mut hasher);
    // The remainder is less than `workers`, which is a `usize`.
    usize::try_from(hasher.finish() % workers as u64).unwrap_or_default()
}

/// Reads a line into `line`, or none of it where it is longer than `bytes_max`; gives its whole length, 0 at the end.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
    line.clear();
    let mut length = 0;
    loop {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let (end, used) = match available.iter().position(|&byte| byte == b'\n') {
            Some(at) => (true, at + 1),
            None => (available.is_empty(), available.len()),
        };
        length += used;
        match length <= bytes_max {
            true => line.extend_from_slice(&available[..used]),
            false => line.clear(),
        }
        input.consume(used);
        if end {
            return Ok(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_too_long_is_passed_over_without_being_kept() {
        let text = format!("short\n{}\nlast", "x".repeat(100));
        let mut input = BufReader::with_capacity(7, text.as_bytes());
        let mut line = Vec::new();
        assert_eq!(read_line(&mut input, &mut line, 20).unwrap(), 6);
        assert_eq!(line, b"short\n");
        assert_eq!(read_line(&mut input, &mut line, 20).unwrap(), 101);
        assert!(line.is_empty());
        assert_eq!(read_line(&mut input, &mut line, 20).unwrap(), 4);
        assert_eq!(line, b"last");
        assert_eq!(read_line(&mut input, &mut line, 20).unwrap(), 0);
    }

    #[test]
    fn a_mark_counts_only_where_it_says_nothing() {
        let text = |line: &[u8], number| text_of(line, number).map(<[u8]>::to_vec).ok();
        assert_eq!(text(b"\xef\xbb\xbf{}\r\n", 1).unwrap(), b"{}");
        assert_eq!(text(b"\xef\xbb\xbf{}\n", 2).unwrap(), b"\xef\xbb\xbf{}");
        assert_eq!(text(b"\xef\xbb\xbf", 1).unwrap(), b"");
        assert_eq!(text(b"\xff\xfe{\0}\0", 1), None);
        assert_eq!(text(b"\xfe\xff\0{\0}", 1), None);
    }
}
