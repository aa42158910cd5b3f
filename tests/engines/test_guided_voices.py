import numpy as np
import pytest

from rayvos.engines.cut.crop_cuts import Crop
from rayvos.engines.guided.network import Found
from rayvos.engines.guided.propagated import view_on_crop
from rayvos.engines.guided.voices import hear_voices

SIZE = 32
CROP = Crop(pixels=(10, 20, 30, 40), area=(0, 10, 40, 50), inner=(8, 8, 24, 24), size=(SIZE, SIZE))


def found(box, quality=0.5, height=0.9):
    probability = np.zeros((SIZE, SIZE), np.float32)
    probability[box[1] : box[3], box[0] : box[2]] = height
    return Found(probability, quality, CROP)


def test_the_answer_that_fits_the_box_outweighs_others():
    fitting, leaving = found((8, 8, 24, 24), 0.9), found((8, 8, 14, 14), 0.1)

    heard = hear_voices([fitting, leaving], None, boxed=True)

    assert heard.probability[20, 20] > 0.85
    assert heard.quality == pytest.approx(0.9, abs=0.01)


def test_what_was_propagated_counts_like_any_other():
    fitting, leaving = found((8, 8, 24, 24)), found((8, 8, 14, 14))

    heard = hear_voices([leaving, leaving], fitting.probability, boxed=True)

    assert heard.probability[20, 20] > 0.85
    assert heard.quality == 0.5


def test_without_a_box_and_without_any_fit_all_count_alike():
    first, second, nothing = found((8, 8, 24, 24)), found((8, 8, 14, 14)), found((0, 0, 0, 0))

    assert hear_voices([first, second], None, boxed=False).probability[20, 20] == pytest.approx(0.45)
    assert hear_voices([nothing, nothing], None, boxed=True).probability.max() == 0


def test_a_propagated_mask_is_seen_where_the_crop_lies():
    frame = np.zeros((60, 80), np.float32)  # half the frame's size
    frame[10:20, 5:15] = 1  # pixels 20 to 40 and 10 to 30 of the frame: the box of the crop

    shown = view_on_crop(frame, CROP, 120, 160)

    assert shown.shape == (SIZE, SIZE)
    inner = np.zeros((SIZE, SIZE), bool)
    inner[8:24, 8:24] = True
    assert np.array_equal(shown > 0.5, inner)
