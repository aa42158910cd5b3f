"""`rayvos demo`: the whole way from boxes to masks on a generated clip, in about a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rayvos import storage
from rayvos.cli.progress import Progress

if TYPE_CHECKING:
    from rayvos.pipelines.progress import RunProgress

__all__ = ["demo"]

SEED = 11
NUM_CLIPS, NUM_FRAMES, HEIGHT, WIDTH = 3, 24, 240, 432


def demo(
    out: Annotated[str, Parameter(help="Folder to write into.")] = "demo",
    *,
    engine: Annotated[str, Parameter(help="What labels; see `rayvos label`.")] = "guided",
    overwrite: Annotated[bool, Parameter(negative="", help="Discard an earlier demo and start anew.")] = False,
) -> int:
    """Generate clips, label them from their boxes on a Ray cluster inside this process, and name the pictures to open.

    The same command again goes on where it was. Example:

        rayvos demo
    """
    from rayvos.annotations.manifest import ManifestFile
    from rayvos.annotations.run_folder import iter_labels
    from rayvos.engines.registry import EngineChoice
    from rayvos.pipelines.label import LabelJob
    from rayvos.pipelines.run import discard_run, run_job
    from rayvos.review.clip_pictures import clip_sheet, write_overlay_video
    from rayvos.review.contact_sheet import encode_jpeg
    from rayvos.review.quality_report import write_report
    from rayvos.video.synthetic import SynthConfig
    from rayvos.video.synthetic_set import SetSettings, write_set

    clips_folder, run_folder = storage.join(out, "clips"), storage.join(out, "run")
    config = SynthConfig(num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH, num_objects=2)
    settings = SetSettings(config, SEED, "jpg", "davis", "none")
    with Progress("generating", unit="clips") as progress:
        made = write_set(
            clips_folder, settings, NUM_CLIPS,
            workers=1, overwrite=overwrite, on_start=progress.set_total, on_clip=progress.advance,
        )  # fmt: skip
    if overwrite:
        discard_run(run_folder)
    job = LabelJob(made.manifest, run_folder, EngineChoice(engine), address="local")
    with Progress("labelling", unit="units") as progress:

        def show(found: RunProgress) -> None:
            progress.set_total(found.num_units)
            progress.advance(found.units_done - progress.count)

        summary = run_job(job, on_progress=show)
    clips = {clip.clip_id: clip for clip in ManifestFile(made.manifest)}
    pictures = []
    for clip_id, table in iter_labels(run_folder):
        sheet, video = storage.join(out, f"{clip_id}.jpg"), storage.join(out, f"{clip_id}.mp4")
        storage.write_bytes(sheet, encode_jpeg(clip_sheet(clips[clip_id], table)))
        write_overlay_video(clips[clip_id], table, video)
        pictures += [sheet, video]
    report = storage.join(out, "report.html")
    write_report(run_folder, report)
    rate = f", {summary.throughput['frames_per_s']:.1f} frames/s" if summary.throughput["units"] else ""
    print(
        f"{summary.num_clips} clips, {summary.num_frames} frames labelled from their boxes by engine {engine!r}{rate}"
    )
    print(f"mean IoU with the generated truth: {_mean_iou(run_folder, clips_folder):.3f}")
    print("open:")
    for path in [*pictures, report]:
        print(f"  {path}")
    print("next: rayvos label YOUR_VIDEO --boxes boxes.csv -o out", flush=True)
    return 0


def _mean_iou(run: str, truth: str) -> float:
    """Return the mean IoU over all objects and frames on which an object is seen."""
    from rayvos.evaluation.opening import open_masks
    from rayvos.evaluation.pseudo_labels import measure_masks

    return measure_masks(open_masks(truth), open_masks(run)).table[0].mean_iou
