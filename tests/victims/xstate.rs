//! Extended registers, held across sleeps by threads that spin.

use std::arch::asm;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Stage, Victim};
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("xstate-avx512", avx512).needs(|| match is_x86_feature_detected!("avx512bw") {
            true => Ok(()),
            false => Err("the CPU has no AVX-512".to_owned()),
        }),
        Victim::new("xstate-x87", x87),
    ]
}

/// Registers as bytes: what is put in and what must come out.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Zmm([[u8; 64]; 32]);

fn pattern(seed: u8) -> Zmm {
    let mut zmm = Zmm([[0; 64]; 32]);
    for (n, register) in zmm.0.iter_mut().enumerate() {
        for (i, byte) in register.iter_mut().enumerate() {
            *byte = seed ^ (n as u8 * 7) ^ (i as u8 * 3);
        }
    }
    zmm
}

/// Loads all vector and mask registers, spins until `*flag` is not `while_`,
/// and returns what they then hold.
fn hold(input: &Zmm, masks: &[u64; 8], flag: &AtomicU32, while_: u32) -> (Zmm, [u64; 8]) {
    let mut output = Zmm([[0; 64]; 32]);
    let mut masks_after = [0_u64; 8];
    // SAFETY: reads 2048 bytes at `input`, 64 at `masks`, four at `flag`, and
    // writes as many at the two outputs, all of which live; every register
    // touched is declared. The victim runs only where there is AVX-512BW.
    unsafe {
        asm!(
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "vmovdqa64 zmm\\n, [{input} + 64 * \\n]",
            ".endr",
            ".irp n,0,1,2,3,4,5,6,7",
            "kmovq k\\n, [{masks} + 8 * \\n]",
            ".endr",
            "2: cmp dword ptr [{flag}], {while_:e}",
            "je 2b",
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "vmovdqa64 [{output} + 64 * \\n], zmm\\n",
            ".endr",
            ".irp n,0,1,2,3,4,5,6,7",
            "kmovq [{masks_after} + 8 * \\n], k\\n",
            ".endr",
            "vzeroupper",
            input = in(reg) input,
            masks = in(reg) masks,
            flag = in(reg) flag.as_ptr(),
            while_ = in(reg) while_,
            output = in(reg) &raw mut output,
            masks_after = in(reg) &raw mut masks_after,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
            out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
            out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            out("k0") _, out("k1") _, out("k2") _, out("k3") _,
            out("k4") _, out("k5") _, out("k6") _, out("k7") _,
            options(nostack),
        );
    }
    (output, masks_after)
}

/// Runs `spin(n, flag)` on threads; each returns when the flag is no longer
/// `n` and says what it found.
fn spinners(
    stage: &mut Stage,
    spin: fn(seed: u32, flag: &AtomicU32, while_: u32) -> Result<(), String>,
) -> Result<(), String> {
    let flag = Arc::new(AtomicU32::new(0));
    let done = Arc::new(AtomicU32::new(0));
    const THREADS: u32 = 2;
    let (tell, told) = std::sync::mpsc::channel();
    for seed in 0..THREADS {
        let (flag, done, tell) = (Arc::clone(&flag), Arc::clone(&done), tell.clone());
        std::thread::spawn(move || {
            for round in 0.. {
                done.fetch_add(1, Ordering::SeqCst);
                let found = spin(seed, &flag, round);
                if tell.send(found).is_err() {
                    return;
                }
            }
        });
    }
    let mut round = 0;
    loop {
        let since = Instant::now();
        while done.load(Ordering::SeqCst) < THREADS * (round + 1) {
            if since.elapsed() > Duration::from_secs(20) {
                return Err("a thread does not spin".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if !stage.next()? {
            return Ok(());
        }
        round += 1;
        flag.store(round, Ordering::SeqCst);
        for _ in 0..THREADS {
            told.recv().map_err(|e| e.to_string())??;
        }
    }
}

fn avx512(stage: &mut Stage) -> Result<(), String> {
    spinners(stage, |seed, flag, while_| {
        let zmm = pattern(seed as u8 * 91 + 5);
        let masks = [0x0102_0304_0506_0708_u64; 8].map(|m| m.rotate_left(seed));
        let (after, masks_after) = hold(&zmm, &masks, flag, while_);
        same("vector registers", &after.0, &zmm.0)?;
        same("mask registers", &masks_after, &masks)
    })
}

/// The x87 stack and both control words.
fn x87(stage: &mut Stage) -> Result<(), String> {
    spinners(stage, |seed, flag, while_| {
        let (control, mxcsr) = (0x0f7f_u16, 0x7f80_u32 | seed);
        let mut value = 0.0_f64;
        let (mut control_after, mut mxcsr_after) = (0_u16, 0_u32);
        // SAFETY: reads and writes the variables named, all of which live; x87
        // is left initialised and MXCSR at its default, as it was.
        unsafe {
            asm!(
                "fninit",
                "fldcw [{control}]",
                "fldpi",
                "fld1",
                "ldmxcsr [{mxcsr}]",
                "2: cmp dword ptr [{flag}], {while_:e}",
                "je 2b",
                "fnstcw [{control_after}]",
                "stmxcsr [{mxcsr_after}]",
                "faddp st(1), st",
                "fstp qword ptr [{value}]",
                "fninit",
                "ldmxcsr [{default}]",
                control = in(reg) &control,
                mxcsr = in(reg) &mxcsr,
                flag = in(reg) flag.as_ptr(),
                while_ = in(reg) while_,
                control_after = in(reg) &raw mut control_after,
                mxcsr_after = in(reg) &raw mut mxcsr_after,
                value = in(reg) &raw mut value,
                default = in(reg) &0x1f80_u32,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack),
            );
        }
        same(
            "control words",
            &(control_after, mxcsr_after),
            &(control, mxcsr),
        )?;
        let expected = std::f64::consts::PI + 1.0;
        same("pi + 1", &((value - expected).abs() < 1e-12), &true)
    })
}
