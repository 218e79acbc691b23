use super::*;

#[tokio::test(start_paused = true)]
async fn calls_that_take_too_long_together_are_one() {
    let call_time_max = Duration::from_millis(50);
    let terms = Terms {
        lease: Duration::from_millis(80),
        absence_max: Duration::from_secs(10),
        gathering: Duration::ZERO,
        unmarked_max: 10,
        call_time_max,
    };
    let vouching = Vouching::new("a".to_owned(), "colloquy", terms);
    vouching.lock().answers = true;
    for (moment, still_asked) in [(1, true), (2, true), (3, false)] {
        for _ in 0..100 {
            vouching.failed(&Fault::TimedOut);
        }
        assert_eq!(vouching.lock().answers, still_asked, "moment {moment}");
        tokio::time::advance(call_time_max).await;
    }
    vouching.lock().answers = true;
    for _ in 0..10 {
        vouching.went_through();
        vouching.failed(&Fault::TimedOut);
        tokio::time::advance(call_time_max).await;
    }
    assert!(vouching.lock().answers, "not in a row");
}
