//! A real Redis under the model's time: it runs the real scripts, and can lose its data, be another process, or hold an
//! older copy, all at a word.

use std::collections::HashMap;

use colloquy::cache::link::{Call, Fault, Script};
use redis::{Connection, Value, cmd};

use crate::random::Random;

/// 2023; far from what the machine's clock says, so that nobody can mix the two up.
pub const EPOCH_US: i64 = 1_700_000_000_000_000;

/// Which part of a script is broken on purpose: what stands there, and what is put in its place.
pub type Mutation = (Script, &'static str, &'static str);

pub struct VirtualRedis {
    connection: Connection,
    scripts: HashMap<Script, redis::Script>,
    /// What its clock shows when the model's begins.
    epoch_us: i64,
    run: u64,
    /// Every key and what it held when the copy was made.
    copy: Vec<(Vec<u8>, Vec<u8>)>,
}

impl VirtualRedis {
    pub fn new(url: &str, mutations: &[Mutation]) -> Self {
        let client = redis::Client::open(url).unwrap();
        let script = |script: Script| {
            let mut code = script.code(include_str!("virtual_redis.lua"));
            for (of, from, to) in mutations {
                if *of == script {
                    assert!(code.contains(from), "{script:?} has no longer {from:?}");
                    code = code.replace(from, to);
                }
            }
            (script, redis::Script::new(&code))
        };
        Self {
            connection: client.get_connection().unwrap(),
            scripts: Script::ALL.map(script).into(),
            epoch_us: EPOCH_US,
            run: 0,
            copy: Vec::new(),
        }
    }

    /// As new.
    pub fn reset(&mut self) {
        self.flush();
        self.copy.clear();
        (self.epoch_us, self.run) = (EPOCH_US, 0);
    }

    /// What its clock shows, this long after the model began.
    pub fn now_us(&self, elapsed_us: i64) -> i64 {
        self.epoch_us + elapsed_us
    }

    /// # Errors
    /// What is wrong with the script: nothing that the model does can make it fail.
    pub fn run(&mut self, call: &Call<'_>, elapsed_us: i64) -> Result<Value, Fault> {
        let mut invocation = self.scripts[&call.script].prepare_invoke();
        for key in call.keys {
            invocation.key(key);
        }
        invocation.key(format!("{} {:x}", self.now_us(elapsed_us), self.run));
        let is_of_session = call.script.is_of_session();
        if is_of_session {
            invocation.arg(call.args.len());
        }
        for arg in &call.args {
            invocation.arg(arg);
        }
        let value = invocation.invoke(&mut self.connection).map_err(Fault::Refused)?;
        match is_of_session {
            true => Script::answers(value, 1).remove(0),
            false => Ok(value),
        }
    }

    pub fn flush(&mut self) {
        cmd("FLUSHDB").exec(&mut self.connection).unwrap();
    }

    /// Copies all data, for a [`restart`](Self::restart) to come.
    pub fn save(&mut self) {
        self.copy.clear();
        for key in keys_of(&mut self.connection) {
            let dump = cmd("DUMP").arg(&key).query(&mut self.connection).unwrap();
            self.copy.push((key, dump));
        }
    }

    /// Another process, with nothing or with the copy, whose clock is another by less than a second.
    pub fn restart(&mut self, from_copy: bool, random: &mut Random) {
        self.flush();
        self.run += 1;
        let apart = i64::try_from(random.below(2_000_000)).unwrap() - 1_000_000;
        self.epoch_us += apart;
        if from_copy {
            for (key, dump) in &self.copy {
                let mut restore = cmd("RESTORE");
                restore.arg(key).arg(0).arg(dump);
                restore.exec(&mut self.connection).unwrap();
            }
        }
    }

    /// Evicts a key; says which.
    pub fn evict(&mut self, random: &mut Random) -> Option<String> {
        let mut keys = keys_of(&mut self.connection);
        keys.retain(|key| key != b"model:deadlines");
        keys.sort();
        let key = (!keys.is_empty()).then(|| random.pick(&keys).clone())?;
        cmd("DEL").arg(&key).exec(&mut self.connection).unwrap();
        let mut forget = cmd("ZREM");
        forget.arg("model:deadlines").arg(&key);
        forget.exec(&mut self.connection).unwrap();
        Some(String::from_utf8(key).unwrap())
    }
}

fn keys_of(connection: &mut Connection) -> Vec<Vec<u8>> {
    cmd("KEYS").arg("*").query(connection).unwrap()
}
