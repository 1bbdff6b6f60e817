"""Fine-tuning by the plan: train what is new, treat the pretrained with care, and prove at the end what moved.

Everything here reads a plan: one that is given, the model's own ``init_plan``, or the one in the ``hf_init.json`` of
the folder that the model was loaded from. Without any, ``plan_against(model, base)`` makes one by comparing bytes.

==========================  =============================================================================
``freeze``                  everything pretrained stands still, running statistics of norms too
``train_only_new``          the same, and of resized tensors only the new rows train, exactly
``parameter_groups``        new and pretrained apart, no decay on biases and norms, rates by depth
``unfreeze_schedule``       which blocks open at which step, from the head down
``check_optimizer``         an optimizer holds everything that trains, and nothing that is frozen
``Watch``                   the proof every so many steps of a plain loop, or one under accelerate
``FinetuneCallback``        the same for ``transformers.Trainer``
``peft_arguments``          ``modules_to_save`` and ``trainable_token_indices`` for ``peft.LoraConfig``
``quantization_arguments``  modules that stay in full precision, for transformers' quantization configs
``check_rewriting``         no PEFT initialisation that rewrites base weights
``plan_against``            a plan from a model and its base alone
==========================  =============================================================================

Example::

    from hf_init.finetune import Watch, parameter_groups, train_only_new

    model = BertForSequenceClassification.from_pretrained("sentiment")  # what `extend` wrote
    frozen = train_only_new(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=2e-5, new_lr=1e-3))
    with Watch(frozen, every=500, optimizer=optimizer) as watch:
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.end_step()
    model.save_pretrained("trained")  # plain names and shapes, at any time
    frozen.save_manifest("trained")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_init._lazy import lazy_names
from hf_init.finetune._freeze import Frozen, freeze, train_only_new
from hf_init.finetune._groups import check_optimizer, parameter_groups
from hf_init.finetune._guard import GuardReport
from hf_init.finetune._model import PlanLike as PlanLike
from hf_init.finetune._model import model_tensors as model_tensors
from hf_init.finetune._model import origin_of as origin_of
from hf_init.finetune._model import unwrapped as unwrapped
from hf_init.finetune._peft import check_rewriting, peft_arguments
from hf_init.finetune._quantized import quantization_arguments
from hf_init.finetune._schedule import Schedule, UnfreezeStep, unfreeze_schedule
from hf_init.finetune._watch import Watch

if TYPE_CHECKING:
    from hf_init.finetune._against import plan_against
    from hf_init.finetune._callback import FinetuneCallback

__all__ = [
    "FinetuneCallback",
    "Frozen",
    "GuardReport",
    "Schedule",
    "UnfreezeStep",
    "Watch",
    "check_optimizer",
    "check_rewriting",
    "freeze",
    "parameter_groups",
    "peft_arguments",
    "plan_against",
    "quantization_arguments",
    "train_only_new",
    "unfreeze_schedule",
]

__getattr__ = lazy_names(  # these two bring transformers
    __name__, {"FinetuneCallback": "hf_init.finetune._callback", "plan_against": "hf_init.finetune._against"}
)
