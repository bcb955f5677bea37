//! A video, frame by frame through the system's ffmpeg: raw frames in and out by pipes.

use std::{
    ffi::OsStr,
    fs,
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{pictures::Pictures, predicted::infer};
use crate::{
    Error, Result,
    data::{EvalTransform, RgbImage},
    train::Network,
};

const SUFFIXES: [&str; 8] = ["mp4", "mov", "mkv", "avi", "webm", "m4v", "mpg", "mpeg"];

/// Whether the name is a video's.
pub(super) fn is_video(path: &Path) -> bool {
    let suffix = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    path.is_file() && suffix.is_some_and(|suffix| SUFFIXES.contains(&suffix.as_str()))
}

/// A video's frames.
struct Stream {
    width: usize,
    height: usize,
    /// Frames a second, as a fraction.
    rate: String,
}

fn missing(path: &Path, program: &str, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let advice = "install ffmpeg (apt-get install ffmpeg), or give a folder of frames";
            Error::data(path, format!("a video needs {program}, which is not installed; {advice}"))
        }
        _ => Error::data(path, format!("cannot start {program}: {error}")),
    }
}

/// What ffmpeg said, in one line.
fn complaint(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    last.unwrap_or("no reason given").to_owned()
}

fn probe(path: &Path) -> Result<Stream> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", "v:0", "-of", "json"]);
    command.args(["-show_entries", "stream=width,height,avg_frame_rate,r_frame_rate:stream_side_data=rotation", "-i"]);
    let run = command.arg(path).output().map_err(|error| missing(path, "ffprobe", &error))?;
    let said: Value = serde_json::from_slice(&run.stdout).unwrap_or_default();
    let stream = &said["streams"][0];
    let side = |key: &str| stream[key].as_u64().filter(|side| (1..=16384).contains(side)).map(|side| side as usize);
    let (Some(width), Some(height)) = (side("width"), side("height")) else {
        return Err(Error::data(path, format!("no video that ffmpeg reads ({})", complaint(&run.stderr))));
    };
    // ffmpeg turns a phone's video upright.
    let turned = stream["side_data_list"].as_array().into_iter().flatten();
    let quarter = turned.filter_map(|data| data["rotation"].as_i64()).any(|angle| angle.rem_euclid(180) == 90);
    let (width, height) = if quarter { (height, width) } else { (width, height) };
    let usable = |key: &str| {
        let rate = stream[key].as_str()?;
        let (frames, seconds) = rate.split_once('/')?;
        (frames.parse::<u64>().ok()? > 0 && seconds.parse::<u64>().ok()? > 0).then(|| rate.to_owned())
    };
    let rate = usable("avg_frame_rate").or_else(|| usable("r_frame_rate")).unwrap_or_else(|| "25/1".into());
    Ok(Stream { width, height, rate })
}

fn start(path: &Path, command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| missing(path, "ffmpeg", &error))
}

/// Waits for the end; one that is not good is an error with what was said.
fn finish(path: &Path, child: Child, what: &str) -> Result<()> {
    let output = child.wait_with_output().map_err(|error| Error::io(path, error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::data(path, format!("ffmpeg cannot {what} the video ({})", complaint(&output.stderr)))),
    }
}

/// The next frame; `None` at the end.
fn frame(from: &mut impl Read, stream: &Stream, path: &Path) -> Result<Option<RgbImage>> {
    let mut pixels = Vec::with_capacity(stream.width * stream.height * 3);
    let wanted = pixels.capacity() as u64;
    from.take(wanted).read_to_end(&mut pixels).map_err(|error| Error::io(path, error))?;
    match pixels.len() as u64 == wanted {
        true => RgbImage::new(stream.width, stream.height, pixels).map(Some),
        // Half a frame is what a broken end leaves.
        false => Ok(None),
    }
}

/// Predicts each frame and writes `NAME_overlay.mp4` in `out`; gives its path and the number of frames.
pub(super) fn predict(
    path: &Path,
    out: &Path,
    network: &Network,
    transform: EvalTransform,
    pictures: &Pictures,
) -> Result<(PathBuf, usize)> {
    let stream = probe(path)?;
    fs::create_dir_all(out).map_err(|error| Error::io(out, error))?;
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push("_overlay.mp4");
    let (file, partial) = (out.join(&name), out.join(".partial.mp4"));
    let size = format!("{}x{}", stream.width, stream.height);
    let raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"];
    let mut decode = Command::new("ffmpeg");
    decode.args(["-v", "error", "-nostdin", "-i"]).arg(path).args(raw).args(["-s", &size, "-"]);
    let mut decoder = start(path, decode.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let mut encode = Command::new("ffmpeg");
    encode.args(["-v", "error", "-nostdin", "-y"]).args(raw).args(["-s", &size, "-r", &stream.rate, "-i", "-"]);
    // Encoders want even sides; the sound goes along where there is any.
    encode.arg("-i").arg(path).args([
        "-map",
        "0:v",
        "-map",
        "1:a?",
        "-c:a",
        "copy",
        "-vf",
        "pad=ceil(iw/2)*2:ceil(ih/2)*2",
    ]);
    encode.args(["-pix_fmt", "yuv420p"]).arg(&partial);
    let mut encoder = start(path, encode.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()))?;
    let (Some(mut source), Some(mut sink)) = (decoder.stdout.take(), encoder.stdin.take()) else {
        return Err(Error::Internal("ffmpeg without pipes".into()));
    };
    let mut frames = 0;
    let mut work = || -> Result<()> {
        while let Some(image) = frame(&mut source, &stream, path)? {
            let input = transform.apply(&image)?;
            let predicted = infer(network, image, input, false)?;
            let picture = pictures.overlay(&predicted.image, &predicted.labels)?;
            if sink.write_all(picture.pixels()).is_err() {
                // Its end says why.
                break;
            }
            frames += 1;
        }
        Ok(())
    };
    let worked = work();
    drop((source, sink));
    let ended = finish(path, decoder, "read").and(finish(path, encoder, "write"));
    let result = worked.and(ended).and_then(|()| match frames {
        0 => Err(Error::data(path, "holds no frame; use another video")),
        _ => fs::rename(&partial, &file).map_err(|error| Error::io(&file, error)),
    });
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    result.map(|()| (file, frames))
}
