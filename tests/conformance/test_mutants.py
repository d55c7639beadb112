#!/usr/bin/env python3
"""Negative controls on the real code: each known mistake, built into kernels/ref, must fail the stored cases.

A mistake is a replacement of one piece of source text; the reference backend is compiled with it into a copy of
test_cases, which must then report that ref is wrong, and must report that it is right without it.  A replacement whose
text is no longer in the source fails here, so this list cannot go stale.  Prints TAP; skipped by name without
../shared/cases."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("M2_BUILD", "build/release")
SHARED = pathlib.Path(os.environ.get("M2_SHARED", ROOT.parent / "shared"))

MISTAKES = {  # name: (file, text, mistaken text)
    "no_mistake_passes": ("ssm.c", "", ""),
    "ungrouped_norm": ("norm.c", "M2_REF(rms_norm)(out, out, weight, n, m->norm_groups, eps)",
                       "M2_REF(rms_norm)(out, out, weight, n, 1, eps)"),
    "tiled_groups": ("ssm.c", "h / (m->n_heads / m->n_groups)", "h % m->n_groups"),
    "gate_after_norm": ("norm.c", "m->gated_norm && m->norm_before_gate", "m->gated_norm"),
    "gate_before_norm": ("norm.c", "m->gated_norm && m->norm_before_gate", "false"),
    "no_dt_clamp": ("ssm.c", "return x < low ? low : x > high ? high : x;", "(void)low; (void)high; return x;"),
    "skip_applied_to_dt_x": ("ssm.c", "sum + d * x", "sum + d * dt * x"),
    "output_from_the_old_state": ("ssm.c", "s[n] = decay * s[n] + dt * x * b[n];\n\t\t\t\tsum += c[n] * s[n];",
                                  "sum += c[n] * s[n];\n\t\t\t\ts[n] = decay * s[n] + dt * x * b[n];"),
    "exponential_without_dt": ("ssm.c", "real_exp(dt * a)", "real_exp(a)"),
    "no_residual": ("forward.c", "residual[i] += model->work.out[i]", "residual[i] = model->work.out[i]"),
}


def build(directory, file, text, mistaken):
    """test_cases with this version of kernels/ref; the archive supplies everything else."""
    copy = directory / "kernels" / "ref"
    copy.mkdir(parents=True)
    for source in (ROOT / "kernels" / "ref").iterdir():
        shutil.copy(source, copy)
    old = (copy / file).read_text(encoding="utf-8")
    if text not in old:
        raise RuntimeError(f"kernels/ref/{file} no longer contains {text!r}")
    (copy / file).write_text(old.replace(text, mistaken) if text else old, encoding="utf-8")
    packages = ["json-c", "yaml-0.1", "sqlite3", "libzmq", "libsystemd", "libzip", "libprotobuf-c", "libcrypto"]
    libraries = subprocess.run(["pkg-config", "--libs", *packages], capture_output=True, text=True,
                               check=True).stdout.split()
    program = directory / "test_cases"
    subprocess.run([os.environ.get("CC", "cc"), "-std=c17", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", "-w",
                    f"-I{directory}", f"-I{ROOT}", *map(str, sorted(copy.glob("*.c"))),
                    str(BUILD / "tests/conformance/test_cases.o"), str(BUILD / "libm2.a"), "-o", str(program),
                    *libraries, "-lacl", "-lpcre2-8", "-lutf8proc", "-lcmocka", "-ldl", "-lm", "-pthread"], check=True)
    return program


def main():
    failed = 0
    for number, (name, (file, text, mistaken)) in enumerate(MISTAKES.items(), 1):
        if not (SHARED / "cases").exists():
            print(f"ok {number} # SKIP {name}: ../shared/cases is not there")
            continue
        with tempfile.TemporaryDirectory(prefix="m2mutant.") as directory:
            try:
                program = build(pathlib.Path(directory), file, text, mistaken)
                out = subprocess.run([str(program), "ref_gives_every_case"], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT,
                                     env=dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP")).stdout
                passed = bool(re.search(r"^ok \d+ - ref_gives_every_case$", out, re.M))
                wrong = bool(re.search(r"^not ok \d+ - ref_gives_every_case$", out, re.M))
                good = passed if not text else wrong
            except (RuntimeError, subprocess.SubprocessError) as error:
                good, out = False, str(error)
        print(f'{"ok" if good else "not ok"} {number} - {name if not text else name + "_fails"}', flush=True)
        if not good:
            failed += 1
            print("".join("# " + line + "\n" for line in out.splitlines()[-20:]), end="")
    print(f"1..{len(MISTAKES)}")
    sys.exit(1 if failed else 0)


main()
