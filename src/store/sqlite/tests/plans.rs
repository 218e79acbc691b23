//! Every statement is answered from an index, in the order asked for.

use rusqlite::{Connection, ToSql, params_from_iter, types::Value};

use super::*;
use crate::domain::{EventPosition, SessionFilter, SessionPosition, Status};

fn explain(connection: &Connection, statement: &str, values: &[Value]) -> String {
    let mut plan = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
        .unwrap();
    // Statements that are given no values here have placeholders all the same.
    let placeholders = plan.parameter_count();
    let values = (0..placeholders).map(|n| values.get(n).unwrap_or(&Value::Null) as &dyn ToSql);
    let lines = plan
        .query_map(params_from_iter(values), |row| row.get::<_, String>(3))
        .unwrap();
    lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
}

fn assert_indexed(statement: &str, plan: &str) {
    let scans = plan.replace("SCAN CONSTANT ROW", "");
    assert!(!scans.contains("SCAN"), "{statement}\n{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "{statement}\n{plan}");
}

#[test]
fn no_statement_scans_or_sorts() {
    let folder = Folder::new();
    let connection = schema::open_writer(&folder.path(), &SqliteOptions::default()).unwrap();
    let all = [
        sessions::STATEMENTS,
        events::STATEMENTS,
        idle::STATEMENTS,
        erasure::STATEMENTS,
        entries::STATEMENTS,
        claims::STATEMENTS,
        copies::STATEMENTS,
        leftovers::STATEMENTS,
        adoption::STATEMENTS,
        runs::STATEMENTS,
    ]
    .concat();
    for statement in all {
        assert_indexed(statement, &explain(&connection, statement, &[]));
    }
}

#[test]
fn a_page_of_events_is_one_range_of_the_index() {
    let folder = Folder::new();
    let connection = schema::open_writer(&folder.path(), &SqliteOptions::default()).unwrap();
    let position = EventPosition {
        timestamp: at(5),
        seq: 7,
        id: "e".parse().unwrap(),
    };
    let times = [None, Some(at(0)), Some(at(5)), Some(at(9))];
    for n in 0..(2 * 2 * 2 * 4 * 4) {
        let query = EventQuery {
            filter: EventFilter {
                event_type: (n % 2 == 1).then(|| "system".parse().unwrap()),
                since: times[n / 8 % 4],
                until: times[n / 32],
            },
            order: [Order::Ascending, Order::Descending][n / 2 % 2],
            after: (n / 4 % 2 == 1).then(|| position.clone()),
            limit: Limit::default(),
            payload_bytes_max: 1,
        };
        let (statement, values) = events::paging(1, &query);
        let plan = explain(&connection, &statement, &values);
        assert_indexed(&statement, &plan);
        // Each bound that is given is an end of the range: none is left to be tested row by row.
        let (after, before) = match query.order {
            Order::Ascending => (query.after, None),
            Order::Descending => (None, query.after),
        };
        let filter = query.filter;
        let lower = match (after, filter.since) {
            (Some(after), since) if since.is_none_or(|since| after.timestamp >= since) => {
                " AND (timestamp,seq,event_id)>(?,?,?)"
            }
            (_, Some(_)) => " AND timestamp>?",
            (_, None) => "",
        };
        let upper = match (before, filter.until) {
            (Some(before), until) if until.is_none_or(|until| before.timestamp < until) => {
                " AND (timestamp,seq,event_id)<(?,?,?)"
            }
            (_, Some(_)) => " AND timestamp<?",
            (_, None) => "",
        };
        let range = format!("SEARCH events USING INDEX events_in_order (session=?{lower}{upper})");
        assert_eq!(plan, range, "{statement}");
        assert!(skips_unread_rows(&connection, &statement), "{statement}");
    }
}

/// The row of the table is looked up only when a column is needed that the index has not: a row that a filter on
/// `type` passes over costs no look at its payload.
fn skips_unread_rows(connection: &Connection, statement: &str) -> bool {
    let mut program = connection.prepare(&format!("EXPLAIN {statement}")).unwrap();
    let opcodes = program
        .query_map(
            params_from_iter((0..program.parameter_count()).map(|_| 0)),
            |row| row.get::<_, String>(1),
        )
        .unwrap();
    opcodes.map(Result::unwrap).any(|opcode| opcode == "DeferredSeek")
}

#[test]
fn a_page_of_sessions_is_one_range_of_an_index() {
    let folder = Folder::new();
    let connection = schema::open_writer(&folder.path(), &SqliteOptions::default()).unwrap();
    let times = [None, Some(at(0)), Some(at(5)), Some(at(9))];
    for n in 0..(2 * 2 * 2 * 4 * 4) {
        let filter = SessionFilter {
            status: (n % 2 == 1).then_some(Status::Active),
            user_id: (n / 2 % 2 == 1).then(|| "u".parse().unwrap()),
            started_after: times[n / 8 % 4],
            started_before: times[n / 32],
        };
        let after = (n / 4 % 2 == 1).then(|| SessionPosition {
            started_at: at(5),
            id: "s".parse().unwrap(),
        });
        let index = match (&filter.user_id, filter.status) {
            (Some(_), _) => "sessions_by_user (tenant=? AND user_id=?",
            (None, Some(_)) => "sessions_by_status (tenant=? AND status=?",
            (None, None) => "sessions_by_start (tenant=?",
        };
        let query = SessionQuery {
            filter,
            after,
            limit: Limit::default(),
        };
        let (statement, values) = sessions::listing(&Tenant::default(), &query);
        let plan = explain(&connection, &statement, &values);
        assert_indexed(&statement, &plan);
        let range = format!("SEARCH sessions USING INDEX {index}");
        assert!(plan.starts_with(&range), "{statement}\n{plan}");
    }
}
