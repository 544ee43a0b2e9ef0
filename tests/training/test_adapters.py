"""LoRA: what is trained, what is saved, and that it can be loaded by those who never heard of adapters."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from small_training import NO_EVALUATION, KillAt, Killed, assert_same_weights, tiny_model

from emotion_ft.errors import UsageError
from emotion_ft.modeling import ASTForEmotionRegression
from emotion_ft.training import adapters

WINDOWS = torch.randn(3, 64, 32, generator=torch.Generator().manual_seed(0))


def adapted(**settings):
    return adapters.add_lora(tiny_model(), 4, settings.get("targets", ["q_proj", "v_proj"]))


def base_weights(model):
    return {name: p.detach().clone() for name, p in model.backbone.named_parameters() if "lora" not in name}


def test_only_adapter_and_head_are_trained(trainer):
    model = adapted()
    before, head = base_weights(model), model.head.out_proj.weight.detach().clone()
    run = trainer(model, unfreeze_at=0.5, max_steps=4, **NO_EVALUATION)
    run.train()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "head" in name for name in trainable) and len(trainable) == 2 * 2 * 2 + 6
    assert all(torch.equal(before[name], p) for name, p in base_weights(model).items())
    assert not torch.equal(head, model.head.out_proj.weight)
    assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_what_is_saved_is_the_merged_model_with_the_adapter_beside_it(trainer, tmp_path):
    run = trainer(adapted(), unfreeze_at=0.0, max_steps=4, **NO_EVALUATION)
    run.train()
    run.save_model()
    loaded, loading = ASTForEmotionRegression.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        expected = run.model.eval()(WINDOWS).logits
        assert torch.allclose(loaded(WINDOWS).logits, expected, atol=1e-6)
        assert not torch.allclose(tiny_model().eval()(WINDOWS).logits, expected, atol=1e-4)
        again = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter").eval()
        assert torch.allclose(again(WINDOWS).logits, expected, atol=1e-6)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert not any("lora" in name for name in load_file(tmp_path / "model.safetensors"))


def test_resumes_to_the_same_weights_and_ends_with_the_best(trainer, tmp_path):
    settings = {"unfreeze_at": 0.5, "num_train_epochs": 2, "metric_for_best_model": "loss"}
    whole = trainer(adapted(), **settings)
    whole.train()
    with pytest.raises(Killed):
        trainer(adapted(), callbacks=[KillAt(8)], **settings).train()
    run = trainer(adapted(), **settings)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert_same_weights(whole.model, run.model)
    best = load_file(tmp_path / f"checkpoint-{run.kept_step}" / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(best[name], tensor) for name, tensor in adapters._adapter(run.model).items())


def test_four_times_two_equals_one_times_eight(trainer):
    """Trainer must not take the wrapper's `**kwargs` for a loss that is already divided by the accumulation steps."""
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        model = adapted()
        model.base_model.model.head.modules_to_save["default"].dropout.p = 0.0
        run = trainer(model, per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=2,
                      max_grad_norm=0.0, unfreeze_at=0.0, **NO_EVALUATION)  # fmt: skip
        run.train()
        ends.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


def test_another_adapter_is_not_loaded(trainer, tmp_path):
    run = trainer(adapted(), max_steps=1, eval_strategy="no", load_best_model_at_end=False)
    run.train()
    other = adapted(targets=["q_proj", "k_proj"])
    with pytest.raises(UsageError, match="does not hold this model's adapter"):
        adapters.load_adapter(other, tmp_path / "checkpoint-1")
    with pytest.raises(UsageError, match="does not hold this model's adapter"):
        adapters.load_adapter(other, tmp_path)


def test_clear_answers(trainer):
    with pytest.raises(UsageError, match="name no layers: there are fc1, fc2, k_proj, o_proj, q_proj, v_proj"):
        adapted(targets=["query"])
    by_hand = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"], modules_to_save=["head"]))
    trainer(deepcopy(by_hand))
    by_hand.backbone.layernorm.weight.requires_grad_(True)
    with pytest.raises(UsageError, match=r"1 trainable weights are not in the adapter, first .*layernorm.weight"):
        trainer(by_hand)
    inside = tiny_model()
    inside._hf_peft_config_loaded = True  # as after `inside.add_adapter(...)`, which asks for a newer peft
    with pytest.raises(UsageError, match=r"use peft\.get_peft_model"):
        trainer(inside)
