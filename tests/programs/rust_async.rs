//! A Rust program on tokio: worker threads, tasks, timers, channels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::harness::{Stage, Victim};

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn programs() -> Vec<Victim> {
    // Its wake-ups are counted there.
    vec![Victim::new("tokio", run).allow("fd/*/eventfd-count*")]
}

type Question = (u64, oneshot::Sender<u64>);

fn run(stage: &mut Stage) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .map_err(|e| format!("start tokio: {e}"))?;
    let ticks: Vec<Arc<AtomicU64>> = (0..100).map(|_| Arc::default()).collect();
    for count in &ticks {
        runtime.spawn(tick(Arc::clone(count)));
    }
    let (questions, asked) = mpsc::channel::<Question>(4);
    runtime.spawn(answer(asked));
    while stage.next()? {
        for count in &ticks {
            grows(count)?;
        }
        runtime.block_on(ask(&questions))?;
        runtime.block_on(sleeps())?;
    }
    Ok(())
}

async fn tick(count: Arc<AtomicU64>) {
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    loop {
        interval.tick().await;
        count.fetch_add(1, Ordering::Relaxed);
    }
}

async fn answer(mut asked: mpsc::Receiver<Question>) {
    while let Some((number, reply)) = asked.recv().await {
        // Who has asked and gone wants no answer.
        let _ = reply.send(number * 2);
    }
}

fn grows(count: &AtomicU64) -> Result<(), String> {
    let before = count.load(Ordering::Relaxed);
    let start = Instant::now();
    while count.load(Ordering::Relaxed) == before {
        if start.elapsed() > LIMIT {
            return Err("a task stands still".to_owned());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

async fn ask(questions: &mpsc::Sender<Question>) -> Result<(), String> {
    let (reply, answered) = oneshot::channel();
    questions
        .send((21, reply))
        .await
        .map_err(|e| e.to_string())?;
    match tokio::time::timeout(LIMIT, answered).await {
        Ok(Ok(42)) => Ok(()),
        other => Err(format!("twice 21 is {other:?}")),
    }
}

async fn sleeps() -> Result<(), String> {
    let asleep = Duration::from_millis(50);
    let start = Instant::now();
    tokio::time::sleep(asleep).await;
    match start.elapsed() {
        took if took >= asleep && took < LIMIT => Ok(()),
        took => Err(format!("{asleep:?} took {took:?}")),
    }
}
