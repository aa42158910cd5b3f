from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest

from rayvos.annotations.records import Clip, ClipSource
from rayvos.errors import DecodeError, FormatError, FrameMissingError, FrameSizeError, ImageTooLargeError
from rayvos.video.container import probe_video
from rayvos.video.limits import DecodeLimits
from rayvos.video.source import open_clip
from tests.conftest import frame_of, moving_square, write_video
from tests.video.test_image_folder import decode_threads

KINDS = {
    "h264.mp4": {"g": "7", "bf": "2"},
    "open gop.mp4": {"x264-params": "open-gop=1:keyint=10:bframes=3"},
    "hevc 10 bit.mov": {"codec": "libx265", "pixel_format": "yuv420p10le", "x265-params": "log-level=none:keyint=9"},
    "h264.mkv": {"g": "7"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "10"},
    "vp8 with hidden frames.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "10", "g": "20"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "9", "bf": "2", "qmin": "1", "qmax": "2"},
    "intra.mp4": {"pixel_format": "yuv444p", "g": "1"},
    "16 bit grey.mkv": {"codec": "ffv1", "pixel_format": "gray16le"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_of_every_kind_of_file_comes_at_its_position(name, tmp_path):
    clip = write_video(tmp_path / name, moving_square(60), **KINDS[name])

    with open_clip(clip) as reader:
        onward = [frame_of(image) for _, image in reader.read(range(60))]
        jumps = {frame: frame_of(image) for frame, image in reader.read([50, 3, 59, 58, 44, 0, 1, 7])}

    assert onward == [frame % 15 for frame in range(60)]
    assert jumps == {frame: frame % 15 for frame in jumps}
    assert probe_video(clip.source.uri).num_frames == 60


def test_a_jump_gives_the_same_pixels_as_reading_from_the_start(tmp_path):
    clip = write_video(tmp_path / "a.mp4", moving_square(60), g="12", bf="3")

    with open_clip(clip) as reader:
        onward = dict(reader.read(range(60)))
    for frame in (45, 12, 59):
        with open_clip(clip) as reader:
            [(_, image)] = reader.read([frame])
        np.testing.assert_array_equal(image, onward[frame])


def test_probe_tells_times_key_frames_and_codec_of_a_variable_frame_rate(tmp_path):
    times = [40 * i + 3 * i * i for i in range(20)]
    clip = write_video(tmp_path / "a.mp4", moving_square(20), times=times, g="8", bf="2")

    info = probe_video(clip.source.uri)

    assert (info.num_frames, info.height, info.width, info.codec) == (20, 48, 66, "h264")
    assert info.frame_times == pytest.approx([time / 1000 for time in times])
    assert info.keyframes == (0, 8, 16)
    with open_clip(clip) as reader:
        assert [frame_of(image) for _, image in reader.read([19, 2, 13])] == [4, 2, 13]


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotation_is_applied_to_size_and_pixels(rotation, turns, tmp_path):
    clip = write_video(tmp_path / "turned.mp4", moving_square(4), rotation=rotation)

    info = probe_video(clip.source.uri)
    with open_clip(clip) as reader, av.open(clip.source.uri) as container:
        turned = dict(reader.read(range(4)))
        # As they are stored, of the same file: the encoder does not give the same bits twice.
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    assert (info.height, info.width, info.rotation) == (clip.height, clip.width, 90 * turns)
    for frame in range(4):
        np.testing.assert_array_equal(turned[frame], np.rot90(stored[frame], turns))


def test_odd_sizes_keep_their_last_row_and_column(tmp_path):
    clip = write_video(tmp_path / "odd.mkv", moving_square(5, 47, 65), codec="ffv1", pixel_format="yuv444p")

    with open_clip(clip) as reader:
        images = [image for _, image in reader.read(range(5))]

    assert {image.shape for image in images} == {(47, 65, 3)}
    error = np.abs(images[0].astype(int) - moving_square(1, 47, 65)[0])
    assert error.max() <= 3  # 8-bit YUV rounds


def test_a_clip_of_some_video_frames_reads_those(tmp_path):
    whole = write_video(tmp_path / "a.mp4", moving_square(60), g="10")
    source = dataclasses.replace(whole.source, video_frames=(4, 18, 32, 46))
    clip = dataclasses.replace(whole, source=source, num_frames=4)

    with open_clip(clip) as reader:
        assert [(frame, frame_of(image)) for frame, image in reader.read(range(4))] == [(0, 4), (1, 3), (2, 2), (3, 1)]
    with pytest.raises(FormatError, match="4 video frames listed but num_frames is 5"):
        open_clip(dataclasses.replace(clip, num_frames=5))


def test_two_passes_of_one_reader_do_not_disturb_each_other(video_clip):
    with open_clip(video_clip) as reader:
        pairs = zip(reader.read(range(10)), reader.read(range(2, 12)), strict=True)
        assert [(frame_of(a[1]), frame_of(b[1])) for a, b in pairs] == [(frame, frame + 2) for frame in range(10)]


def test_a_file_with_fewer_frames_than_promised_names_both_counts(video_clip):
    clip = dataclasses.replace(video_clip, num_frames=15)

    with open_clip(clip) as reader, pytest.raises(DecodeError, match=r"clip 'square' .*after 12 frames .* needs 15"):
        list(reader.read(range(15)))
    with open_clip(clip) as reader, pytest.raises(DecodeError, match=r"after 12 frames .* needs 15"):
        list(reader.read([14]))


def test_a_cut_mkv_loses_frames_and_says_so(tmp_path):
    rng = np.random.default_rng(0)
    clip = write_video(tmp_path / "a.mkv", rng.integers(0, 255, (20, 48, 64, 3), np.uint8))
    path = Path(clip.source.uri)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with open_clip(clip) as reader, pytest.raises(DecodeError, match="clip 'a' frame"):
        list(reader.read(range(20)))


def test_an_mp4_cut_before_its_index_cannot_be_opened(video_clip):
    path = Path(video_clip.source.uri)
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(DecodeError, match=r"clip 'square' .*square.mp4.*none that can be opened"):
        open_clip(video_clip)


def test_zeroed_bytes_in_an_mp4_are_an_error_not_painted_over(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (240, 322, 3), np.uint8)
    images = np.stack([np.roll(noise, frame, axis=1) for frame in range(60)])
    clip = write_video(tmp_path / "a.mp4", images, g="12", bf="2")
    path = Path(clip.source.uri)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)

    with open_clip(clip) as reader, pytest.raises(DecodeError, match="clip 'a' frame"):
        list(reader.read(range(60)))


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(5000)])
def test_what_is_no_video_is_an_error_that_names_clip_and_file(content, tmp_path):
    (tmp_path / "x.mp4").write_bytes(content)
    clip = Clip("c", ClipSource("video", str(tmp_path / "x.mp4")), 48, 64, 10)

    with pytest.raises(DecodeError, match=r"clip 'c' .*x.mp4"):
        open_clip(clip)
    with pytest.raises(DecodeError, match=r"x.mp4"):
        probe_video(clip.source.uri)


def test_a_sound_file_is_no_video(tmp_path):
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())

    with pytest.raises(DecodeError, match="no video stream"):
        probe_video(str(tmp_path / "x.mp4"))


def test_a_playlist_is_not_followed(tmp_path, video_clip):
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{video_clip.source.uri}\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {Path(video_clip.source.uri).name}\n")

    for name in ("list.mp4", "concat.mp4"):
        with pytest.raises(DecodeError, match=name):
            probe_video(str(tmp_path / name))


def test_a_missing_file_names_the_clip(tmp_path):
    clip = Clip("c", ClipSource("video", str(tmp_path / "gone.mp4")), 48, 64, 10)

    with pytest.raises(FrameMissingError, match=r"clip 'c': .*gone.mp4 does not exist"):
        open_clip(clip)


def test_a_frame_size_other_than_the_manifests_is_an_error(video_clip):
    clip = dataclasses.replace(video_clip, width=64)

    with open_clip(clip) as reader, pytest.raises(FrameSizeError, match=r"clip 'square' frame 0 .*48x66.*48x64"):
        next(reader.read([0]))


def test_a_size_change_inside_a_clip_is_an_error(tmp_path):
    small = write_video(tmp_path / "small.ts", moving_square(5))
    large = write_video(tmp_path / "large.ts", moving_square(5, 96, 128))
    both = tmp_path / "both.ts"
    both.write_bytes(Path(small.source.uri).read_bytes() + Path(large.source.uri).read_bytes())
    clip = Clip("both", ClipSource("video", str(both)), 48, 66, 10)

    with open_clip(clip) as reader, pytest.raises(FrameSizeError, match=r"96x128.*48x66"):
        list(reader.read(range(10)))


def test_too_many_pixels_are_refused_before_decoding(video_clip):
    with pytest.raises(ImageTooLargeError, match="48x66 is 3168 pixels, at most 3000"):
        open_clip(video_clip, limits=DecodeLimits(max_pixels=3000))


def test_a_video_is_read_from_a_url(video_clip):
    with fsspec.open("memory:///clips/a b.mp4", "wb") as target, Path(video_clip.source.uri).open("rb") as source:
        shutil.copyfileobj(source, target)
    url = "memory:///clips/a b.mp4"
    clip = dataclasses.replace(video_clip, source=dataclasses.replace(video_clip.source, uri=url))

    with open_clip(clip) as reader:
        assert [frame_of(image) for _, image in reader.read([0, 11, 6])] == [0, 11, 6]
    assert probe_video(url).num_frames == 12


def test_threads_stop_when_the_consumer_stops_early(tmp_path):
    clip = write_video(tmp_path / "a.mp4", moving_square(60))
    before = decode_threads()

    with open_clip(clip) as reader:
        running = reader.read(range(60))
        next(running)
        running.close()
        assert decode_threads() == before
        assert [frame_of(image) for _, image in reader.read([1, 2])] == [1, 2]
        running = reader.read(range(60))
        next(running)
    assert decode_threads() == before
