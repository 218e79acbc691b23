//! Ports for engines.

use std::{
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Below those that the kernel gives to outgoing connections: an engine that is down for a moment must find its port
/// free when it comes back.
const PORTS: Range<u64> = 20_000..32_000;

/// A port of 127.0.0.1 on which nothing listens now. Somebody else may still be faster: whoever uses it starts again
/// on another. This process gives each port only once (in 12,000 times).
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(0) >> 1));
    for _ in PORTS {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let port = u16::try_from(PORTS.start + nth).expect("the range ends below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}
