import pytest
import torch

from rayvos.errors import UsageError, WeightsError
from rayvos.models.guided import PLANES, build_guided
from rayvos.models.layers import fold_batch_norms
from rayvos.models.registry import load_model
from rayvos.models.weights import save_weights

SMALL = {"size": 64, "widths": [8, 8, 12, 16, 16]}


def small_network(seed=0):
    torch.manual_seed(seed)
    return build_guided(SMALL).eval()


def planes(batch=2, size=64, seed=1):
    return torch.rand((batch, len(PLANES), size, size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [32, 64, 128])
def test_every_crop_gets_a_logit_per_pixel_and_one_of_quality(size):
    with torch.inference_mode():
        output = build_guided({**SMALL, "size": size}).eval()(planes(3, size))

    assert output.logits_BHW.shape == (3, size, size)
    assert output.quality_B.shape == (3,)


def test_a_crop_without_a_region_or_anything_else_has_a_finite_answer():
    with torch.inference_mode():
        output = small_network()(torch.zeros(1, len(PLANES), 64, 64))

    assert output.logits_BHW.isfinite().all()
    assert output.quality_B.isfinite().all()


def test_a_crop_is_answered_alike_in_any_company():
    network, inputs = small_network(), planes(3)

    with torch.inference_mode():
        together, alone = network(inputs), network(inputs[1:2])

    torch.testing.assert_close(together.logits_BHW[1:2], alone.logits_BHW, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.quality_B[1:2], alone.quality_B, atol=1e-4, rtol=1e-4)


def test_folded_batch_norms_change_nothing_but_rounding():
    network, inputs = small_network().train(), planes(4)
    network(inputs)  # moving statistics that are not the initial ones
    network.eval()

    with torch.inference_mode():
        before = network(inputs).logits_BHW
        after = fold_batch_norms(network)(inputs).logits_BHW

    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_the_predicted_quality_does_not_pull_at_the_mask():
    network = small_network().train()

    network(planes()).quality_B.sum().backward()

    assert network.mask.weight.grad is None


def test_weights_come_back_from_their_file(tmp_path):
    network, path = small_network(3), str(tmp_path / "small.safetensors")
    save_weights(path, network.state_dict(), architecture="guided", model=network.configuration(), dtype=torch.float16)

    loaded, info = load_model(path, architecture="guided")

    assert loaded.configuration() == network.configuration()
    assert info.architecture == "guided"
    with torch.inference_mode():
        torch.testing.assert_close(loaded(planes()).logits_BHW, network(planes()).logits_BHW, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("wrong", [{"size": 100}, {"size": 0}, {"widths": [8, 8, 8]}, {"widths": [8, 8, 8, 8, 2]}])
def test_an_impossible_configuration_is_refused(wrong):
    with pytest.raises(UsageError):
        build_guided({**SMALL, **wrong})


def test_a_configuration_of_a_newer_version_is_refused():
    with pytest.raises(WeightsError, match="newer"):
        build_guided({**SMALL, "colour": 3})
