//! The conformance suite of every backend: `cargo test --no-default-features --test conformance`.
//!
//! `--backend NAME` runs one backend, `--device PATH` one of its nodes; `--require` fails if the device is missing. A
//! missing device is reported and not counted. The last line has only the counts.

#![allow(clippy::print_stdout)] // The output is the result.

mod create;
mod faults;
mod limits;
mod map;
mod share;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use rkllmjs_memory::backend::probe;
use rkllmjs_memory::backend::simulated::{Options, Simulated};
use rkllmjs_memory::backend::{Backend, Kind, Maintenance};
use suite::{Case, Outcome};

/// Every case in order of execution: the gentle ones first.
fn cases() -> Vec<Case> {
    [create::CASES, map::CASES, share::CASES, limits::CASES, faults::CASES].concat()
}

#[derive(Default)]
struct Arguments {
    kind: Option<Kind>,
    device: Option<PathBuf>,
    require: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--backend" => {
                let name = value()?;
                parsed.kind = Some(Kind::from_name(&name).ok_or_else(|| format!("no backend is called \"{name}\""))?);
            }
            "--device" => parsed.device = Some(value()?.into()),
            "--require" => parsed.require = true,
            other => {
                return Err(format!("unknown argument {other}; usage: [--backend NAME [--device PATH]] [--require]"))
            }
        }
    }
    match (&parsed.device, parsed.kind) {
        (Some(_), None) => Err("--device wants --backend".into()),
        _ => Ok(parsed),
    }
}

/// Numbers of cases that passed, failed, and did not apply.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    not_applicable: usize,
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.not_applicable += other.not_applicable;
    }
}

fn run(name: &str, backend: &Arc<dyn Backend>) -> Count {
    let mut count = Count::default();
    let info = backend.info();
    println!(
        "{name}: {} soc {} driver {} iommu {} domains {} of {} bytes, sram {}",
        info.path.as_ref().map_or_else(|| "no node,".into(), |path| format!("{},", path.display())),
        info.soc.as_deref().unwrap_or("unknown"),
        info.driver_version.as_deref().unwrap_or("unknown"),
        info.iommu,
        info.domains,
        info.domain_bytes,
        info.sram_total
    );
    for case in cases() {
        let began = Instant::now();
        let outcome = case.run(backend);
        // Prints only the notable cases, so that two runs can be compared.
        let time = match began.elapsed() {
            time if time.as_secs() >= 1 => format!(" ({:.1} s)", time.as_secs_f64()),
            _ => String::new(),
        };
        match outcome {
            Ok(Outcome::Held) => {
                count.passed += 1;
                println!("  ok    {}{time}", case.name);
            }
            Ok(Outcome::NotApplicable(why)) => {
                count.not_applicable += 1;
                println!("  n/a   {}: {why}{time}", case.name);
            }
            Err(why) => {
                count.failed += 1;
                println!("  FAIL  {}: {why}{time}", case.name);
            }
        }
    }
    println!(
        "conformance {name}: {} passed, {} failed ({} not applicable)",
        count.passed, count.failed, count.not_applicable
    );
    count
}

/// The boards that the simulated device imitates.
fn boards() -> Vec<(String, Arc<dyn Backend>)> {
    let incoherent = |maintenance| Options { incoherent: true, maintenance, ..Options::default() };
    [
        ("rk3588", "", Options::default()),
        ("rk3566", "", Options::default()),
        ("rk3588", " with incoherent caches", incoherent(Maintenance::Ranges)),
        ("rk3588", " with incoherent caches, synced by objects", incoherent(Maintenance::Objects)),
    ]
    .into_iter()
    .filter_map(|(soc, name, options)| {
        let options = Options { soc: Some(soc.into()), ..options };
        let backend: Arc<dyn Backend> = Arc::new(Simulated::new(options).ok()?);
        Some((format!("simulated {soc}{name}"), backend))
    })
    .collect()
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let mut total = Count::default();
    let kinds: Vec<Kind> = arguments.kind.map_or_else(|| Kind::ALL.to_vec(), |kind| vec![kind]);
    for kind in kinds {
        if kind == Kind::Simulated && arguments.device.is_none() {
            for (name, backend) in boards() {
                total.add(&run(&name, &backend));
            }
            continue;
        }
        match probe::open(kind, arguments.device.as_deref()) {
            Ok(backend) => total.add(&run(kind.as_str(), &Arc::from(backend))),
            Err(error) if arguments.require => {
                total.failed += 1;
                println!("{kind}: required, and not to be had: {}: {error}", error.code());
            }
            Err(error) => println!("{kind}: not on this machine ({error}): not run"),
        }
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    ExitCode::from(u8::from(total.failed > 0))
}
