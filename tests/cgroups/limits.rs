//! Limits under another root: they are there after a restore, and they bite.

use std::path::Path;

use crate::common::perl::perl;
use crate::common::target::Target;
use crate::common::wait;
use crate::place::{Version, Yard, alone, enter, read, write};
use crate::{Result, scratch};

/// A process and its child. When it is asked to, it tries to have two more
/// children, one of which uses the processor and then too much memory, and to
/// open a device; and says what came of it.
const PROGRAM: &str = r#"
use Errno;
my ($go, $out) = ('GO', 'OUT');
if (fork() == 0) { sleep 1000; exit }
select(undef, undef, undef, 0.01) until -e $go;
my $first = fork();
if (defined $first and $first == 0) {
    my $end = time + 2;
    1 while time < $end;
    my $bytes = (-s $go) + (200 << 20);
    my $x = "x" x $bytes;
    exit 0;
}
my $second = fork();
exit 0 if defined $second and $second == 0;
my $refused = defined $second ? "no" : $!{EAGAIN} ? "yes" : "$!";
waitpid $first, 0;
my $signal = $? & 127;
my $full = open(my $fh, ">", "/dev/full") ? "open" : $!{EPERM} ? "denied" : "$!";
open(my $o, ">", "$out.part");
print $o "fork refused: $refused, killed by: $signal, device: $full";
close $o;
rename "$out.part", $out;
sleep 1000;
"#;

const DEVICES: [&str; 4] = ["c 1:3 rwm", "c 1:5 rwm", "c 1:8 rwm", "c 1:9 rwm"];

fn program(go: &Path, out: &Path) -> String {
    let text = PROGRAM.replace("GO", &go.display().to_string());
    text.replace("OUT", &out.display().to_string())
}

#[test]
fn limits_of_a_tree_bite_under_another_root() -> Result {
    let _alone = alone()?;
    let names = ["pids", "memory", "cpu", "devices"];
    let make = |name: &&'static str| Yard::new(Version::V1(name), "limits");
    let yards = names.iter().map(make).collect::<Result<Vec<_>>>()?;
    let dirs: Vec<_> = yards.iter().map(|y| y.make("job")).collect::<Result<_>>()?;
    write(&dirs[0].join("pids.max"), "3")?;
    write(&dirs[1].join("memory.limit_in_bytes"), "67108864")?;
    write(&dirs[1].join("memory.swappiness"), "35")?;
    write(&dirs[2].join("cpu.cfs_quota_us"), "20000")?;
    write(&dirs[2].join("cpu.shares"), "512")?;
    write(&dirs[3].join("devices.deny"), "a")?;
    for device in DEVICES {
        write(&dirs[3].join("devices.allow"), device)?;
    }
    let scratch = scratch()?;
    let [go, out] = ["go", "out"].map(|name| scratch.path().join(name));
    let mut target = perl(&program(&go, &out))?;
    let child = wait::until("the child", wait::LIMIT, || {
        Ok(crate::common::tree::children(target.pid()).first().copied())
    })?;
    for dir in &dirs {
        enter(dir, target.pid())?;
        enter(dir, child)?;
    }
    let images = scratch.path().join("image");
    target.dump(&images, &["--manage-cgroups"])?;
    wait::until("the child to be gone", wait::LIMIT, || {
        Ok((!Path::new(&format!("/proc/{child}")).exists()).then_some(()))
    })
    .or_else(|_| crate::common::tree::reap(&[child]))?;
    restored(&mut target, &images, &yards, child)?;
    std::fs::write(&go, "").map_err(|e| e.to_string())?;
    let said = wait::until("the program to say", wait::LIMIT, || {
        Ok(std::fs::read_to_string(&out).ok())
    })?;
    assert_eq!(said, "fork refused: yes, killed by: 9, device: denied");
    let stat = read(&yards[2].dir.join("elsewhere/cpu.stat"))?;
    let throttled = stat.lines().find_map(|l| l.strip_prefix("nr_throttled "));
    assert_ne!(throttled, Some("0"), "{stat}");
    let all = [target.pid(), child];
    for pid in all {
        let _ = std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status();
    }
    target.wait()?;
    crate::common::tree::reap(&[child])
}

fn restored(target: &mut Target, images: &Path, yards: &[Yard], child: u32) -> Result {
    let root = |name: &str| format!("--cgroup-root={name}:/icecore-test-limits/elsewhere");
    let roots = ["pids", "memory", "cpu", "devices"].map(root);
    let mut args = vec!["--manage-cgroups=strict"];
    args.extend(roots.iter().map(String::as_str));
    target.restore(images, &args)?;
    let [pids, memory, cpu, devices] =
        [0, 1, 2, 3].map(|at: usize| yards[at].dir.join("elsewhere"));
    let file = |dir: &Path, name: &str| read(&dir.join(name));
    assert_eq!(file(&pids, "pids.max")?, "3");
    assert_eq!(file(&memory, "memory.limit_in_bytes")?, "67108864");
    assert_eq!(file(&memory, "memory.swappiness")?, "35");
    assert_eq!(file(&cpu, "cpu.cfs_quota_us")?, "20000");
    assert_eq!(file(&cpu, "cpu.shares")?, "512");
    let allowed = file(&devices, "devices.list")?;
    assert_eq!(allowed.lines().collect::<Vec<_>>(), DEVICES);
    for pid in [target.pid(), child] {
        let place = Version::V1("pids").of(pid)?;
        assert_eq!(place, "/icecore-test-limits/elsewhere");
    }
    Ok(())
}
