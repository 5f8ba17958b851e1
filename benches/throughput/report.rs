//! What comes of it: one page for a browser, and files for programs.

use std::fmt::Write;
use std::fs;

use serde::Serialize;

use crate::Outcome;
use crate::machine::Machine;
use crate::options::Options;
use crate::plot;
use crate::samples::{Samples, Summary};

#[derive(Serialize)]
struct Everything<'a> {
    machine: &'a Machine,
    samples: &'a Samples,
}

/// Writes all of it.
pub(crate) fn write(options: &Options, samples: &Samples) -> Outcome<()> {
    fs::create_dir_all(&options.out)?;
    let machine = Machine::this()?;
    let everything = Everything {
        machine: &machine,
        samples,
    };
    let summaries = samples.summaries();
    let out = |name: &str| options.out.join(name);
    fs::write(
        out("samples.json"),
        serde_json::to_string_pretty(&everything)? + "\n",
    )?;
    fs::write(out("samples.csv"), csv(samples))?;
    fs::write(out("table.md"), table(&summaries, false))?;
    fs::write(out("report.html"), page(&machine, options, &summaries)?)?;
    Ok(())
}

fn csv(samples: &Samples) -> String {
    let mut text = "case,bytes,directory,what,round,us,frozen_us\n".to_owned();
    for s in samples.all() {
        let frozen = s.frozen_us.map_or(String::new(), |us| us.to_string());
        let fields = (&s.case, s.size, &s.dir, &s.what, s.round, s.us);
        let (case, size, dir, what, round, us) = fields;
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{case},{size},{dir},{what},{round},{us},{frozen}");
    }
    text
}

const HEAD: [&str; 7] = [
    "memory",
    "directory",
    "what",
    "ms",
    "(least to most)",
    "MiB/s",
    "frozen ms",
];

/// The summaries as a table: Markdown, or HTML.
fn table(summaries: &[Summary], html: bool) -> String {
    let row = |cells: &[String], tag: &str| match html {
        true => {
            let cells: String = cells
                .iter()
                .map(|c| format!("<{tag}>{c}</{tag}>"))
                .collect();
            format!("<tr>{cells}</tr>\n")
        }
        false => format!("| {} |\n", cells.join(" | ")),
    };
    let mut text = row(&HEAD.map(str::to_owned), "th");
    if !html {
        text += &format!("|{}\n", "---|".repeat(HEAD.len()));
    }
    for s in summaries {
        let ms = |us: u64| format!("{:.1}", us as f64 / 1000.0);
        let cells = [
            s.case.clone(),
            s.dir.clone(),
            s.what.clone(),
            ms(s.us[0]),
            format!("{} to {}", ms(s.us[1]), ms(s.us[2])),
            format!("{:.0}", s.rate()),
            s.frozen_us.map_or(String::new(), |us| ms(us[0])),
        ];
        text += &row(&cells, "td");
    }
    match html {
        true => format!("<table>\n{text}</table>\n"),
        false => text,
    }
}

fn page(machine: &Machine, options: &Options, summaries: &[Summary]) -> Outcome<String> {
    let mut body = String::new();
    for dir in options.dirs.iter().map(|dir| dir.display().to_string()) {
        if !summaries.iter().any(|s| s.plain && s.dir == dir) {
            continue;
        }
        let title = format!("Throughput, {dir}");
        body += &plot::against_size(&title, "MiB/s", summaries, &dir, |s| Some(s.rate()))?;
        let title = format!("Time the target stood still, {dir}");
        let frozen = |s: &Summary| s.frozen_us.map(|us| us[0] as f64 / 1000.0);
        body += &plot::against_size(&title, "ms", summaries, &dir, frozen)?;
    }
    let Machine {
        kernel,
        cpu,
        cpus,
        memory_mib,
        icecore,
    } = machine;
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <title>icecore: throughput</title>\n\
         <style>body {{ font: 16px sans-serif; max-width: 60em; margin: 2em auto }}\n\
         table {{ border-collapse: collapse }} td, th {{ padding: .2em .6em; \
         border: 1px solid #ccc; text-align: left }}</style>\n\
         <h1>Throughput</h1>\n\
         <p>icecore {icecore}, Linux {kernel}, {cpus} CPUs ({cpu}), {memory_mib} MiB of memory. \
         Medians of {} rounds, in each of which everything was measured once. What lies \
         beside icecore's figures is what the machine itself did in the same minute: \
         compare with that, not with figures of another machine.</p>\n\
         <p>Again: <code>cargo bench --bench throughput -- {}</code></p>\n{body}{}</html>\n",
        options.rounds,
        if options.full { "--full" } else { "" },
        table(summaries, true),
    ))
}
