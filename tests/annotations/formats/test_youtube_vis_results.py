import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rayvos.annotations.formats.youtube_vis_results import write_youtube_vis
from rayvos.masks.rle import rle_to_mask
from tests.review.runs import label_rows, make_clip


@pytest.fixture
def clips(tmp_path):
    found = [make_clip(tmp_path, "a"), make_clip(tmp_path, "b", num_frames=3)]
    return [(clip, label_rows(clip, range(clip.num_frames))) for clip in found]


@pytest.fixture
def write(clips, tmp_path):
    def writer(**options):
        paths = tmp_path / "instances.json", tmp_path / "results.json"
        write_youtube_vis(str(paths[0]), str(paths[1]), clips, category_names=["dog", None], **options)
        return json.loads(paths[0].read_text()), json.loads(paths[1].read_text())

    return writer


def test_lists_are_as_long_as_the_video_with_null_where_absent(write):
    dataset, _ = write()

    lengths = {video["id"]: video["length"] for video in dataset["videos"]}
    assert lengths == {1: 6, 2: 3}
    for annotation in dataset["annotations"]:
        lists = [annotation[name] for name in ("segmentations", "bboxes", "areas")]
        assert {len(items) for items in lists} == {lengths[annotation["video_id"]]}
        assert [[item is None for item in items] for items in lists[1:]] == [[item is None for item in lists[0]]] * 2
    last = {annotation["object_id"]: annotation["segmentations"][-1] for annotation in dataset["annotations"]}
    assert last[1] is not None
    assert last[2] is None


def test_masks_boxes_and_areas_are_those_of_the_labels(write, clips):
    dataset, _ = write()

    for clip, table in clips:
        video = next(video for video in dataset["videos"] if video["clip_id"] == clip.clip_id)
        assert video["file_names"] == [f"{clip.clip_id}/{name}" for name in clip.source.frame_names]
        for row in table.filter(table["present"]).to_pylist():
            annotation = next(
                item
                for item in dataset["annotations"]
                if (item["video_id"], item["object_id"]) == (video["id"], row["object_id"])
            )
            rle = annotation["segmentations"][row["frame"]]
            mask = coco_mask.decode(rle).astype(np.bool_)
            assert (mask == rle_to_mask(row["rle"], row["height"], row["width"])).all()
            assert annotation["bboxes"][row["frame"]] == coco_mask.toBbox(rle).tolist()
            assert annotation["areas"][row["frame"]] == mask.sum()


def test_results_say_the_same_in_the_servers_form(write):
    dataset, results = write()

    assert [sorted(result) for result in results] == [["category_id", "score", "segmentations", "video_id"]] * 4
    assert [result["segmentations"] for result in results] == [a["segmentations"] for a in dataset["annotations"]]
    assert [result["score"] for result in results] == [a["score"] for a in dataset["annotations"]]


def test_a_low_score_is_null_and_an_object_without_any_mask_is_left_out(write):
    everything, _ = write()
    some, _ = write(min_score=0.5)
    none, results = write(min_score=1.0)

    def count(dataset):
        return sum(item is not None for a in dataset["annotations"] for item in a["segmentations"])

    assert 0 < count(some) < count(everything)
    assert (none["annotations"], results) == ([], [])
    assert len(none["videos"]) == 2
