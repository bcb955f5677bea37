//! The self-test: its checks on the emulator, that each of them can fail, and its processes.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ffi::{CString, c_char, c_void},
    process::Command,
    time::{Duration, Instant},
};

use bicl::{
    Device,
    device::{EmulatedEntry, Launch, Schedule},
    doctor::{Check, Children, Outcome, Row, Status, Trouble, device_checks, host_checks, kernel_declarations},
};

/// What asks for a real GPU.
const FOR_A_GPU: [&str; 2] = ["kernels load", "autotuned convolution"];

#[test]
fn checks_have_names_advice_and_limits() {
    let checks: Vec<Check> = host_checks(0).into_iter().chain(device_checks()).collect();
    let names: BTreeSet<&str> = checks.iter().map(|check| &*check.name).collect();
    assert_eq!(names.len(), checks.len());
    for check in &checks {
        assert!(check.name == "glibc" || !check.advice.is_empty(), "{}", check.name);
        assert!(check.limit <= Duration::from_secs(20) && check.name.len() <= 40, "{}", check.name);
    }
    // Groups come in one piece: each is a process.
    let groups: BTreeSet<&str> = checks.iter().map(|check| check.group).collect();
    assert_eq!(groups.len(), checks.chunk_by(|a, b| a.group == b.group).count());
}

unsafe extern "C" {
    fn emu_find(name: *const c_char) -> Option<EmulatedEntry>;
}

thread_local! {
    /// Kernels that this thread has launched since it was cleared.
    static LAUNCHED: RefCell<BTreeSet<String>> = RefCell::default();
    /// The kernel that does nothing.
    static DEAD: RefCell<Option<String>> = RefCell::default();
}

unsafe extern "C" fn nothing(
    _: *const Launch,
    _: *mut *mut c_void,
    _: *const Schedule,
    _: *mut c_char,
    _: usize,
) -> i32 {
    0
}

fn find(name: &str) -> Option<EmulatedEntry> {
    LAUNCHED.with_borrow_mut(|launched| launched.insert(name.to_owned()));
    if DEAD.with_borrow(|dead| dead.as_deref() == Some(name)) {
        return Some(nothing);
    }
    let name = CString::new(name).ok()?;
    // SAFETY: the name is terminated and only read; the emulator's entries have this signature.
    unsafe { emu_find(name.as_ptr()) }
}

/// The check of this name on a device of which one kernel does nothing, and the kernels that it launched.
fn run(name: &str, dead: Option<&str>) -> (Row, BTreeSet<String>) {
    LAUNCHED.take();
    DEAD.set(dead.map(str::to_owned));
    let check = device_checks().into_iter().find(|check| check.name == name).unwrap();
    let row = check.run(&Device::emulated(find, bicl_emulator::DEFAULT));
    (row, LAUNCHED.take())
}

/// On the emulator every check passes; where any kernel leaves its result unwritten one fails; and every kernel that trains is launched
/// by one. (A gradient's check does not look at the forward pass, which has one of its own.)
#[test]
fn every_check_passes_and_every_kernel_is_checked() {
    let mut runs = Vec::new();
    for check in device_checks() {
        let (row, kernels) = run(&check.name, None);
        println!("{:<45} {:.2} s", row.name, row.seconds);
        let want = if FOR_A_GPU.contains(&&*check.name) { Status::Skipped } else { Status::Ok };
        assert_eq!(row.status, want, "{row:?}");
        assert!(!row.detail.is_empty() && row.advice.is_none(), "{row:?}");
        runs.push((row.seconds, check.name, kernels));
    }
    // The shortest first: most kernels are noticed before the long ones.
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut launched, mut noticed) = (BTreeSet::new(), BTreeSet::new());
    for (_, check, kernels) in runs {
        for kernel in kernels {
            if !noticed.contains(&kernel) && run(&check, Some(&kernel)).0.status == Status::Failed {
                noticed.insert(kernel.clone());
            }
            launched.insert(kernel);
        }
    }
    let unnoticed: Vec<&String> = launched.difference(&noticed).collect();
    let declared = kernel_declarations();
    // f64 is for the tests of gradients.
    let trains = |kernel: &&str| !kernel.ends_with("_f64");
    let declared = declared.iter().map(|declaration| declaration.symbol).filter(trains);
    let forgotten: Vec<&str> = declared.filter(|kernel| !launched.contains(*kernel)).collect();
    assert!(
        unnoticed.is_empty() && forgotten.is_empty(),
        "no check notices {unnoticed:#?}, no check launches {forgotten:#?}"
    );
}

fn pass(_: &Device) -> Outcome {
    Ok("fine".into())
}

#[test]
fn outcomes_become_rows() {
    let row = |run: fn(&Device) -> Outcome| Check::new("group", "name", "advice", run).run(&Device::cpu());
    let ok = row(pass);
    assert_eq!((ok.status, &*ok.detail, ok.advice), (Status::Ok, "fine", None));
    let skipped = row(|_| Err(Trouble::Skipped("why".into())));
    assert_eq!((skipped.status, &*skipped.detail, skipped.advice), (Status::Skipped, "why", None));
    let failed = row(|_| Err(Trouble::Error(bicl::Error::NoDriver)));
    assert_eq!((failed.status, failed.advice.as_deref()), (Status::Failed, Some("advice")));
    assert!(failed.detail.contains("libcuda.so.1"), "{failed:?}");
}

/// A child that does what the names of its checks say, and passes others.
const STAND_IN: &str = r#"
row() { printf '{"event":"end","row":{"group":"g","name":"%s","status":"%s","seconds":0.5,"detail":"d","advice":null}}\n' "$1" "$2"; }
echo "a library says something"
for name; do
    case $name in mute*) exec sleep 60;; gone*) exit 3;; esac
    printf '{"event":"begin","name":"%s"}\n' "$name"
    case $name in
        hang*) sleep 60;;
        crash*) echo "terminate called" >&2; kill -ABRT $$;;
        half*) printf '{"event":"end","row":{"gro'; exit 0;;
        flood*) yes | tr -d '\n';;
        other*) row else ok; exit 0;;
        failed*) row "$name" failed;;
        lost*) row "$name" failed; exit 0;;
        *) row "$name" ok;;
    esac
done
"#;

/// The rows of checks with these names, by stand-ins.
fn by_stand_ins(names: &[&str], time: Duration) -> Vec<Row> {
    let check = |name: &&str| Check::new("g", *name, "advice", pass).within(Duration::from_millis(700));
    let checks: Vec<Check> = names.iter().map(check).collect();
    let command = |names: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", STAND_IN, "sh"]).args(names);
        command
    };
    let mut rows = Vec::new();
    let (start, deadline) = (Duration::from_millis(900), Instant::now() + time);
    Children { command: &command, start, deadline }.run(&checks, &mut |row| rows.push(row));
    assert_eq!(rows.iter().map(|row| &*row.name).collect::<Vec<_>>(), names, "a row for each check, in order");
    rows
}

#[test]
fn a_process_that_goes_wrong_is_one_failed_row() {
    for (wrong, part) in [
        ("hang", "no end after 0.7 s"),
        ("crash", "signal 6 (SIGABRT): terminate called"),
        ("half", "status 0 before it had reported"),
        ("flood", "no end after 0.7 s"),
        ("other", "status 0 before it had reported"),
        ("mute", "no end after 0.9 s"),
        ("gone", "status 3 before it had reported"),
    ] {
        let start = Instant::now();
        let rows = by_stand_ins(&["a", "b", wrong, "c", "d"], Duration::from_secs(20));
        assert!(start.elapsed() < Duration::from_secs(5), "{wrong}: {:?}", start.elapsed());
        for row in &rows {
            let want = if row.name == wrong { Status::Failed } else { Status::Ok };
            assert_eq!(row.status, want, "{row:?}");
        }
        assert!(rows[2].detail.contains(part) && rows[2].advice.as_deref() == Some("advice"), "{:?}", rows[2]);
    }
}

#[test]
fn several_go_wrong() {
    let rows = by_stand_ins(&["crash 1", "crash 2", "a", "hang", "half"], Duration::from_secs(20));
    let failed: Vec<&str> = rows.iter().filter(|row| row.status == Status::Failed).map(|row| &*row.name).collect();
    assert_eq!(failed, ["crash 1", "crash 2", "hang", "half"]);
}

/// A process may go on after a failure, or end because its GPU is lost: either is one row.
#[test]
fn a_reported_failure_is_one_row() {
    let rows = by_stand_ins(&["a", "failed", "b", "lost", "c", "lost too"], Duration::from_secs(20));
    let status: Vec<Status> = rows.iter().map(|row| row.status).collect();
    use Status::{Failed, Ok};
    assert_eq!(status, [Ok, Failed, Ok, Failed, Ok, Failed]);
    assert!(rows.iter().all(|row| row.detail == "d"), "{rows:?}");
}

#[test]
fn the_whole_ends_in_time() {
    let start = Instant::now();
    let rows = by_stand_ins(&["hang 1", "hang 2", "hang 3", "a"], Duration::from_secs(1));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(rows.iter().all(|row| row.status == Status::Failed), "{rows:?}");
    assert!(rows[3].detail.starts_with("not run: "), "{rows:?}");
}

#[test]
fn a_process_that_does_not_start_is_a_failed_row_for_each() {
    let check = |name: &str| Check::new("g", name, "advice", pass);
    let command = |_: &[&str]| Command::new("/no/such/program");
    let mut rows = Vec::new();
    let children = Children {
        command: &command,
        start: Duration::from_secs(1),
        deadline: Instant::now() + Duration::from_secs(9),
    };
    children.run(&[check("a"), check("b")], &mut |row| rows.push(row));
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.detail.contains("did not start")), "{rows:?}");
}
