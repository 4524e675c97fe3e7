//! Where files go: nobody's place is taken unasked, and no result is lost with another.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use bitnet_core::gguf::{Access, Gguf, GgufWriter, Value};
use sha2::{Digest, Sha256};

use crate::convert::write_checkpoint;
use crate::support::{Ran, bitnet, command};
use crate::tiny::{on_tiny, on_tiny_args, tiny, with_stdin};

fn n_files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_file_that_appears_during_the_run_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    for _ in 0..100 {
        let args = format!("quantize {} {} --type tq1_0", tiny().display(), out.display());
        let mut child = command(words(&args)).spawn().unwrap();
        while n_files(folder.path()) == 0 && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(100));
        }
        let ours = fs::File::create_new(&out).is_ok();
        let ran: Ran = child.wait_with_output().unwrap().into();
        if ours {
            assert!(ran.refused(1).ends_with("has appeared, and is left alone"), "{ran:?}");
            assert_eq!((fs::read(&out).unwrap(), n_files(folder.path())), (vec![], 1));
            return;
        }
        ran.done();
        fs::remove_file(&out).unwrap();
    }
    panic!("every run was done before the file could appear");
}

/// Every way to name a file that is written, with a model or log that is not even looked for.
fn writers(out: &str) -> Vec<Vec<String>> {
    let mut writers = vec![
        words(&format!("quantize /nowhere.gguf {out} --type i2_s")),
        words(&format!("convert /nowhere {out}")),
        words(&format!("synth {out}")),
        words(&format!("bench -m /nowhere.gguf --receipt {out}")),
        words(&format!("eval -m /nowhere.gguf --data /nowhere.tsv --receipt {out}")),
        words(&format!("parity -m /nowhere.gguf --tokens 1 --record {out}")),
    ];
    if cfg!(feature = "instrument") {
        writers.push(words(&format!("profile -m /nowhere.gguf --tokens 1 --trace {out}")));
    }
    writers
}

#[test]
fn a_place_where_no_file_can_go_is_refused_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let (link, missing) = (folder.path().join("link"), folder.path().join("missing/out"));
    #[cfg(unix)]
    std::os::unix::fs::symlink("nothing", &link).unwrap();
    #[cfg(not(unix))]
    fs::write(&link, "").unwrap();
    for (out, says, forced) in [
        (link.to_str().unwrap(), "the file exists", false),
        (missing.to_str().unwrap(), "its folder does not exist", true),
        (folder.path().to_str().unwrap(), "found a directory", true),
        ("-", "it cannot go to stdout", true),
    ] {
        for mut args in writers(out) {
            if out == "-" && args[0] == "parity" {
                continue; // a log can go there
            }
            if out == missing.to_str().unwrap() && !args.contains(&"-m".to_owned()) {
                continue; // the first thing that is done is to create the file
            }
            args.extend(forced.then(|| "--force".to_owned()));
            let ran = command(&args).current_dir(folder.path()).output().unwrap();
            let ran = Ran::from(ran);
            assert!(ran.refused(2).contains(says), "{args:?}\n{ran:?}\nexpected {says}");
            assert_eq!(n_files(folder.path()), 1, "{args:?}");
        }
    }
    let saved = with_stdin(on_tiny_args("chat", "-q"), format!("/save {}\n", link.display()).as_bytes());
    assert_eq!(saved.code, Some(1));
    assert!(saved.stderr.ends_with("the file exists, and is left alone\n"), "{saved:?}");
    assert!(link.symlink_metadata().is_ok() && n_files(folder.path()) == 1);
}

#[test]
fn no_verb_writes_over_what_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), 300);
    let dir = folder.path().to_str().unwrap();
    for name in ["model.safetensors", "config.json"] {
        let before = fs::read(folder.path().join(name)).unwrap();
        let ran = bitnet(["convert", dir, &format!("{dir}/./{name}"), "--force"]);
        assert!(ran.refused(2).contains("a file of the checkpoint itself"), "{ran:?}");
        assert!(fs::read(folder.path().join(name)).unwrap() == before);
    }
    let model = format!("{dir}/model.gguf");
    fs::copy(tiny(), &model).unwrap();
    let ran = bitnet(["quantize", &model, &model, "--type", "tq1_0", "--force"]);
    assert!(ran.refused(2).contains("it is IN itself"), "{ran:?}");
    assert!(fs::read(&model).unwrap() == fs::read(tiny()).unwrap());
    for (line, name) in [
        ("bench -m model.gguf --receipt", "model.gguf"),
        ("bench -m . --receipt", "config.json"),
        ("bench -m model.gguf --tl-config tiles.ini --receipt", "tiles.ini"),
        ("eval -m model.gguf --data q.tsv --receipt", "q.tsv"),
        ("eval -m model.gguf --tokenizer tokens --data q.tsv --receipt", "tokens"),
        ("parity -m model.gguf --tokens 1 --record", "model.gguf"),
        ("parity -m model.gguf -f q.tsv --record", "q.tsv"),
        ("quantize model.gguf --type tl1 --tl-config tiles.ini", "tiles.ini"),
        ("profile -m model.gguf --tokens 1 --trace", "model.gguf"),
        ("profile -m model.gguf -f q.tsv --trace", "q.tsv"),
    ] {
        if line.starts_with("profile") && !cfg!(feature = "instrument") {
            continue;
        }
        let path = folder.path().join(name);
        if !path.exists() {
            fs::write(&path, "any").unwrap();
        }
        let before = fs::read(&path).unwrap();
        let args = words(&format!("{line} ./{name} --force"));
        let ran: Ran = command(&args).current_dir(folder.path()).output().unwrap().into();
        assert!(
            ran.refused(2).ends_with("it is a file that this run reads, which is left alone"),
            "{args:?} {ran:?}"
        );
        assert!(fs::read(&path).unwrap() == before, "{args:?}");
    }
    bitnet(["convert", dir, &model, "--force"]).done();
}

#[cfg(unix)]
#[test]
fn a_name_reaches_the_terminal_without_its_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("a\x1b[2Jb.gguf");
    let args = ["quantize".as_ref(), tiny().as_os_str(), model.as_os_str()];
    let told = bitnet(args.into_iter().chain(["--type", "tq1_0"].map(OsStr::new)));
    let run = ["run", "--tokens", "1", "-n", "1", "-v", "-m"].map(OsStr::new);
    let run = bitnet(run.into_iter().chain([model.as_os_str()]));
    let bench = ["bench", "-p", "1", "-n", "0", "-r", "1", "-m"].map(OsStr::new);
    let bench = bitnet(bench.into_iter().chain([model.as_os_str()]));
    write_checkpoint(folder.path(), 300);
    let out = folder.path().join("c\x1b.gguf");
    let converted = bitnet(["convert".as_ref(), folder.path().as_os_str(), out.as_os_str()]);
    for ran in [told, run, bench, converted] {
        ran.done();
        assert!(!(ran.stdout + &ran.stderr).contains('\x1b'));
    }
    let tsv = "a\x1bb\tab\tab\n";
    let eval = with_stdin(on_tiny_args("eval", "--data -"), tsv.as_bytes());
    assert!(eval.done().starts_with("a\\u{1b}b  "), "{eval:?}");
}

#[cfg(unix)]
#[test]
fn a_file_name_after_an_equal_sign_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(OsStr::from_bytes(b"a\xff=b.gguf"));
    fs::copy(tiny(), &model).unwrap();
    let given = [b"--model=", model.as_os_str().as_bytes()].concat();
    let rest = ["run", "--tokens", "1", "-n", "1", "-q"].map(OsStr::new);
    bitnet(rest.into_iter().chain([OsStr::from_bytes(&given)])).done();
}

/// A reader that has gone away: what is written to it fails.
#[cfg(target_os = "linux")]
fn unread(args: &[&str]) -> Ran {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command(args).stdout(writer).output().unwrap().into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_verdict_is_given_whether_or_not_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (a, b, bad, questions) = (at("a.log"), at("b.log"), at("bad.gguf"), at("q.tsv"));
    fs::write(&a, "{\"step\":0,\"token\":1,\"top_k\":[[1,2.0]]}\n").unwrap();
    fs::write(&b, "{\"step\":0,\"token\":2}\n").unwrap();
    fs::write(&questions, "say\tab\tab\n").unwrap();
    let mut bytes = fs::read(tiny()).unwrap();
    let model = bitnet_core::gguf::Gguf::open(tiny(), bitnet_core::Access::Read).unwrap();
    let at = model.data_offset() + model.tensor("blk.0.attn_q.weight").unwrap().info.offset;
    bytes[at as usize..][..4096].fill(0xff);
    fs::write(&bad, bytes).unwrap();
    let tiny = tiny().to_str().unwrap();
    for (args, code) in [
        (&["parity", &a, &b][..], 4),
        (&["inspect", "--verify", &bad], 3),
        (&["inspect", "--layout-test", tiny], 5),
        (&["eval", "-m", tiny, "--data", &questions, "--min", "total=100"], 5),
        (&["parity", &a, &a], 0),
        (&["inspect", tiny], 0),
    ] {
        let ran = unread(args);
        assert_eq!(ran.code, Some(code), "{args:?} {ran:?}");
        assert!(!ran.stderr.contains("stdout"), "{ran:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_answer_and_a_receipt_do_not_share_their_fate() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (receipt, questions, tiny) = (at("r.json"), at("q.tsv"), tiny().to_str().unwrap());
    fs::write(&questions, "say\tab\tab\n").unwrap();
    let bench = ["bench", "-m", tiny, "-p", "2", "-n", "1", "-r", "1", "-q", "--receipt", &receipt];
    let eval = ["eval", "-m", tiny, "--data", &questions, "-q", "--receipt", &receipt];
    for args in [&bench[..], &eval] {
        assert_eq!(unread(args).code, Some(0), "{args:?}");
        fs::remove_file(&receipt).unwrap();
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ran = Ran::from(command(args).stdout(full).output().unwrap());
        assert!(ran.refused(1).starts_with("cannot write to stdout: "), "{ran:?}");
        fs::remove_file(&receipt).unwrap();

        // A folder where nobody can create a file.
        let mut args = args.to_vec();
        *args.last_mut().unwrap() = "/proc/r.json";
        let ran = bitnet(&args);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stdout.lines().count() >= 2 && ran.stderr.contains("/proc/r.json"), "{ran:?}");
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The model of a receipt that `bench` writes for `model`, and what `sha256sum` says of `names` beside it, with the
/// size of all.
fn receipt_and_sums(model: &Path, folder: &Path, names: &[String]) -> (serde_json::Value, String, usize) {
    let other = tempfile::tempdir().unwrap();
    let receipt = other.path().join("r.json");
    let (model, path) = (model.to_str().unwrap(), receipt.to_str().unwrap());
    bitnet(["bench", "-m", model, "-p", "2", "-n", "0", "-r", "1", "-q", "--receipt", path]).done();
    let receipt: serde_json::Value = serde_json::from_slice(&fs::read(&receipt).unwrap()).unwrap();
    let (mut sums, mut n_bytes) = (String::new(), 0);
    for name in names {
        let bytes = fs::read(folder.join(name)).unwrap();
        sums += &format!("{}  {name}\n", hex(&bytes));
        n_bytes += bytes.len();
    }
    (receipt["model"].clone(), sums, n_bytes)
}

#[test]
fn a_receipt_names_a_checkpoint_by_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    write_checkpoint(dir, 300);
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let names: Vec<String> = names.into_iter().map(|name| name.into_string().unwrap()).collect();
    let (model, sums, n_bytes) = receipt_and_sums(dir, dir, &names);
    assert_eq!((&model["path"], &model["bytes"]), (&dir.to_str().into(), &n_bytes.into()), "{model}");
    assert_eq!(model["sha256"], hex(sums.as_bytes()), "{model}");
    assert_eq!(model["files"].as_array().unwrap().len(), names.len());
}

/// Writes `model` in two files to `dir`; returns their names.
fn write_shards(model: &Path, dir: &Path) -> [String; 2] {
    let gguf = Gguf::open(model, Access::Read).unwrap();
    let names = [1, 2].map(|number| format!("m-0000{number}-of-00002.gguf"));
    let n_first = gguf.tensors().len() / 2;
    let (first, second) = gguf.tensors().split_at(n_first);
    for (no, (name, tensors)) in (0..).zip(names.iter().zip([first, second])) {
        let mut writer = GgufWriter::new();
        for (key, value) in gguf.metadata().iter().filter(|_| no == 0) {
            writer.set(key, value).unwrap();
        }
        writer.set("split.no", Value::U16(no)).unwrap();
        writer.set("split.count", Value::U16(2)).unwrap();
        writer.set("split.tensors.count", Value::I32(gguf.tensors().len() as i32)).unwrap();
        for info in tensors {
            writer.declare(&info.name, info.ty, &info.shape).unwrap();
        }
        let path = dir.join(name);
        writer
            .write_file(&path, |out| {
                tensors.iter().try_for_each(|info| out.tensor(&info.name, gguf.bytes_of(info).unwrap()))
            })
            .unwrap();
    }
    names
}

#[test]
fn a_receipt_names_a_model_in_shards_by_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let names = write_shards(tiny(), dir);
    let first = dir.join(&names[0]);
    let (model, sums, n_bytes) = receipt_and_sums(&first, dir, &names);
    assert_eq!((&model["path"], &model["bytes"]), (&first.to_str().into(), &n_bytes.into()), "{model}");
    assert_eq!(model["sha256"], hex(sums.as_bytes()), "{model}");
    let files: Vec<_> = model["files"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(files, names.each_ref().map(|name| name.as_str()));
    for (file, line) in model["files"].as_array().unwrap().iter().zip(sums.lines()) {
        assert!(line.starts_with(file["sha256"].as_str().unwrap()), "{file}");
    }
}

#[test]
fn a_prompt_file_called_dash_is_stdin() {
    let run = |flags: &str| with_stdin(on_tiny_args("run", &format!("{flags} -n 0 --json -q")), b"ab\n");
    let (file, prompt) = (run("-f -"), run("-p -"));
    let ids = |ran: &Ran| -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(ran.done()).unwrap()["prompt_tokens"].clone()
    };
    assert_eq!(ids(&file), ids(&prompt));
    assert!(on_tiny("run", "-f - -p ab").refused(2).contains("expected one of them"));
}
