//! How soon the service is ready, and the memory that it takes.

use std::{sync::Arc, time::Duration};

use crate::{
    Failure,
    client::Connection,
    engines::Engines,
    proc::resident_mib,
    report,
    requests::{Bodies, Sessions, Template, reads},
    results::{Resources, Results},
    service::{Place, Target},
};

const STARTS: usize = 10;
const IDLE: Duration = Duration::from_secs(3);
const CONNECTED: Sessions = Sessions {
    prefix: "connected",
    count: 1_000,
};

pub async fn measure(
    target: Target,
    number: u32,
    engines: &mut Engines,
    bodies: &Arc<Bodies>,
    results: &mut Results,
) -> Result<(), Failure> {
    let place = Place::prepare(target, engines, number)?;
    let mut ready = Vec::new();
    for _ in 0..STARTS {
        let service = place.start().await?;
        ready.push(service.ready_after);
        service.stop().await?;
    }
    ready.sort_unstable();
    let service = place.start().await?;
    tokio::time::sleep(IDLE).await;
    let idle_mib = resident_mib(service.pid())?;
    let (opens, appends, read) = (
        bodies.opens(&CONNECTED),
        bodies.appends(&CONNECTED),
        reads(&CONNECTED),
    );
    let mut request = Vec::new();
    let mut connections = Vec::new();
    for nth in 0..CONNECTED.count {
        let of = |templates: &[Template]| templates[(nth % templates.len() as u64) as usize].clone();
        let mut connection = Connection::open(service.address).await?;
        for template in [of(&opens), of(&appends), of(&read)] {
            template.write(nth, nth, &mut request);
            let answer = connection.exchange(&request).await?;
            if answer.status != template.status {
                return Err(format!("status {} on connection {nth}", answer.status).into());
            }
        }
        connections.push(connection);
    }
    let found = Resources {
        target,
        ready,
        idle_mib,
        connections: connections.len(),
        connected_mib: resident_mib(service.pid())?,
    };
    report::resources_progress(&found);
    results.resources.push(found);
    drop(connections);
    service.stop().await
}
