"""What a run says about its speed."""

import time

from test_resume import make_trainer

from vtn_hf.training.trainer import VTNTrainer


def test_the_logs_tell_speed_waiting_memory_and_time_left(tmp_path, monkeypatch):
    class SlowClips(type(make_trainer(tmp_path / "unused").train_dataset)):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    saving = []
    original = VTNTrainer._save_checkpoint

    def save_slowly(self, *args):
        time.sleep(0.2)
        saving.append(0.2)
        original(self, *args)

    monkeypatch.setattr(VTNTrainer, "_save_checkpoint", save_slowly)
    trainer = make_trainer(tmp_path, num_train_epochs=1, gradient_accumulation_steps=2, logging_steps=1)
    trainer.train_dataset = SlowClips()
    trainer.train()

    first, last = (entry for entry in trainer.state.log_history if "videos_per_sec" in entry)
    assert len(saving) == 2
    # Eight videos of 0.02 s each; accelerate fetches one batch ahead. Saving does not count.
    for entry in (first, last):
        assert 4 < entry["videos_per_sec"] < 200
        assert 0 < entry["data_wait"] <= 1
        assert 0.1 < entry["memory_gib"] < 10
    assert first["data_wait"] > 0.3
    assert first["minutes_left"] > 0 and last["minutes_left"] == 0
    seconds = sum(4 / entry["videos_per_sec"] for entry in (first, last))
    assert 0.16 <= seconds < 0.16 + 5


def test_a_resumed_run_counts_its_own_steps(tmp_path):
    make_trainer(tmp_path, max_steps=4, save_strategy="steps").train()
    trainer = make_trainer(tmp_path, max_steps=8)
    trainer.train(resume_from_checkpoint=True)
    left = [entry["minutes_left"] for entry in trainer.state.log_history if entry["step"] > 4 and "loss" in entry]
    assert len(left) == 4 and left[-1] == 0
    assert min(left[:-1]) > 0
