"""Training a model of the Llama family with PyTorch and gloo: what `bench launch` compares placements with.

`launch_peer.py FOLDER`, once for each rank, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them (and
GLOO_SOCKET_IFNAME where the host has several interfaces). FOLDER holds
    config.json         the shape, with the names of Hugging Face
    model.safetensors   the weights to start from: f32, names of Hugging Face
    tokens.u16          little-endian u16; sample i is the tokens i*S to i*S+S, S being the sequence length
    work.json           {"mode", "sequence_length", "global_batch", "micro_batches", "steps", "warm_up_steps",
                        "learning_rate", "betas", "eps", "weight_decay", "clip", "dtype": "f32", "threads"}
Step s uses the samples s*B to s*B+B-1, B being the global batch: each data-parallel rank a contiguous part, and of that
each micro-batch one. `warm_up_steps` steps come first, then `steps` that are measured. `clip` is the greatest norm of the
gradient of all parameters together; 0 is no limit. The loss is the mean over all tokens of the global batch.

Modes, where the first half of the ranks is one cluster and the second half another:
    single             one process
    ddp                DistributedDataParallel over all ranks
    pp                 a pipeline (PipelineStage, Schedule1F1B) with one stage a rank
    ddp_in_pp_across   each cluster is a stage; its ranks share the batch
    pp_in_ddp_across   each cluster is a pipeline; the clusters share the batch
Micro-batches are those of a pipeline; without one, a rank takes its part of the batch in one piece.

Rank 0 says one line; `losses` has all steps, `tokens_per_s` and `ms_per_step` are of the measured ones:
    {"mode": "pp", "world": 2, "tokens_per_s": 2000.0, "ms_per_step": 2048.0, "steps": 10, "losses": [5.6, 5.4]}
"""

import datetime
import json
import os
import sys
import time
from pathlib import Path

import numpy
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

# How long a rank waits for another.
PATIENCE = datetime.timedelta(minutes=5)


def read_weights(path):
    """The f32 tensors of a safetensors file by name: a length, a JSON header of that length, the bytes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, about in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        if about["dtype"] != "F32":
            sys.exit(f"{path}: {name} is {about['dtype']}; only F32 is read here")
        begin, end = (8 + length + offset for offset in about["data_offsets"])
        values = numpy.frombuffer(data[begin:end], dtype="<f4").reshape(about["shape"])
        tensors[name] = torch.from_numpy(values.copy())
    return tensors


def matrix(*parts):
    """A linear layer without a bias whose output is that of `parts` one after another."""
    weight = torch.cat(parts)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight)
    return layer


class Norm(nn.Module):
    def __init__(self, weight, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Layer(nn.Module):
    def __init__(self, config, weights, number):
        super().__init__()

        def of(name):
            return weights[f"model.layers.{number}.{name}.weight"]

        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config["hidden_size"] // self.heads
        self.attention_norm = Norm(of("input_layernorm"), config["rms_norm_eps"])
        self.qkv = matrix(*(of(f"self_attn.{name}_proj") for name in "qkv"))
        self.out = matrix(of("self_attn.o_proj"))
        self.feed_forward_norm = Norm(of("post_attention_layernorm"), config["rms_norm_eps"])
        self.gate_up = matrix(of("mlp.gate_proj"), of("mlp.up_proj"))
        self.down = matrix(of("mlp.down_proj"))

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        heads = self.qkv(self.attention_norm(x)).view(batch, length, -1, self.head_dim)
        turned, value = heads.split([self.heads + self.kv_heads, self.kv_heads], dim=2)
        # Queries and keys turn alike: together.
        low, high = turned.chunk(2, dim=-1)
        turned = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
        query, key = turned.split([self.heads, self.kv_heads], dim=2)
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            is_causal=True,
            enable_gqa=self.heads != self.kv_heads,
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.feed_forward_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Part(nn.Module):
    """One of `parts` equal runs of layers; the first has the embedding before it, the last the output layer after it."""

    def __init__(self, config, weights, part, parts, length):
        super().__init__()
        layers = config["num_hidden_layers"]
        own = range(layers * part // parts, layers * (part + 1) // parts)
        embedding, tied = weights["model.embed_tokens.weight"], config.get("tie_word_embeddings", False)
        self.embedding = nn.Embedding.from_pretrained(embedding, freeze=False) if part == 0 else None
        self.layers = nn.ModuleList(Layer(config, weights, number) for number in own)
        self.norm = self.head = None
        if part == parts - 1:
            self.norm = Norm(weights["model.norm.weight"], config["rms_norm_eps"])
            self.head = matrix(embedding if tied else weights["lm_head.weight"])
            if tied and self.embedding is not None:
                self.head.weight = self.embedding.weight
        half = config["hidden_size"] // config["num_attention_heads"] // 2
        frequencies = config.get("rope_theta", 10000.0) ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(length, dtype=torch.float32)[:, None, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x):
        if self.embedding is not None:
            x = self.embedding(x)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return x if self.head is None else self.head(self.norm(x))


def mean_loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Place:
    """Where this rank stands: its stage of the pipeline and its part of the batch, with the groups that share them."""

    def __init__(self, mode):
        self.world, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if self.world > 1:
            dist.init_process_group("gloo", timeout=PATIENCE)
        if mode == "single" and self.world != 1 or mode.endswith("_across") and self.world % 2:
            sys.exit(f"{self.world} ranks cannot do {mode}")
        half = self.world // 2
        grid = torch.arange(self.world)  # [data-parallel rank, stage]
        if mode == "ddp" or mode == "single":
            grid = grid[:, None]
        elif mode == "pp":
            grid = grid[None, :]
        elif mode == "ddp_in_pp_across":
            grid = grid.view(2, half).T
        elif mode == "pp_in_ddp_across":
            grid = grid.view(2, half)
        else:
            sys.exit(f"no mode is called {mode!r}")
        self.replicas, self.stages = grid.shape
        self.replica, self.stage = (grid == self.rank).nonzero()[0].tolist()
        self.replica_group = self.group(grid.T)
        self.stage_group = self.group(grid)
        self.ends_group = self.group(grid[:, [0, -1]]) if self.stages > 1 else None

    def group(self, rows):
        """The group of this rank among those that are the rows. Every rank has to ask for every group."""
        own = None
        for row in rows.tolist() if self.world > 1 else []:
            group = dist.new_group(row, timeout=PATIENCE)
            own = group if self.rank in row else own
        return own


class Trainer:
    def __init__(self, folder):
        self.work = json.loads((folder / "work.json").read_text())
        config = json.loads((folder / "config.json").read_text())
        if self.work.get("dtype", "f32") != "f32":
            sys.exit(f"dtype {self.work['dtype']!r} is not done here; only f32")
        torch.set_num_threads(self.work["threads"])
        self.place = place = Place(self.work["mode"])
        self.length, self.batch = self.work["sequence_length"], self.work["global_batch"]
        self.tokens = numpy.fromfile(folder / "tokens.u16", dtype="<u2")
        need = (self.work["warm_up_steps"] + self.work["steps"]) * self.batch * self.length + 1
        if len(self.tokens) < need:
            sys.exit(f"{folder / 'tokens.u16'} has {len(self.tokens)} tokens; the steps need {need}")
        if self.batch % place.replicas:
            sys.exit(f"a batch of {self.batch} cannot be shared by {place.replicas}")
        micro_batches = self.work["micro_batches"] if place.stages > 1 else 1
        if self.batch // place.replicas % micro_batches:
            sys.exit(f"{self.batch // place.replicas} samples a rank do not make {micro_batches} equal micro-batches")

        weights = read_weights(folder / "model.safetensors")
        self.part = self.net = Part(config, weights, place.stage, place.stages, self.length)
        if place.replicas > 1:
            self.net = DistributedDataParallel(
                self.part,
                process_group=place.replica_group,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                init_sync=False,  # all have read the same weights
            )
        self.schedule = None
        if place.stages > 1:
            stage = PipelineStage(self.net, place.stage, place.stages, torch.device("cpu"), group=place.stage_group)
            self.schedule = Schedule1F1B(stage, micro_batches, loss_fn=mean_loss)
        # The embedding is on the first stage and, as the output layer, on the last: both need the sum of their gradients.
        self.tied = None
        if config.get("tie_word_embeddings", False) and place.stages > 1:
            ends = (self.part.embedding, self.part.head)
            self.tied = next((end.weight for end in ends if end is not None), None)

        parameters = list(self.part.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim == 2], "weight_decay": self.work["weight_decay"]},
                {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
            ],
            lr=self.work["learning_rate"],
            betas=tuple(self.work["betas"]),
            eps=self.work["eps"],
            fused=True,
        )

    def samples(self, step):
        """This rank's part of a step's samples: what goes in and what should come out, `[samples, length]` each."""
        count = self.batch // self.place.replicas
        first = (step * self.batch + self.place.replica * count) * self.length
        tokens = torch.from_numpy(self.tokens[first : first + count * self.length + 1].astype(numpy.int64))
        return tokens[:-1].view(count, self.length), tokens[1:].view(count, self.length)

    def step(self, number):
        """One update. The mean loss of this rank's samples, where this rank has it."""
        inputs, targets = self.samples(number)
        self.optimizer.zero_grad(set_to_none=True)
        if self.schedule is None:
            loss = mean_loss(self.net(inputs), targets)
            loss.backward()
            loss = loss.detach()
        else:
            losses = []
            given = (inputs,) if self.place.stage == 0 else ()
            last = self.place.stage == self.place.stages - 1
            self.schedule.step(
                *given, target=targets if last else None, losses=losses if last else None, return_outputs=False
            )
            loss = torch.stack([loss.detach() for loss in losses]).mean() if last else torch.zeros(())
        if self.tied is not None:
            dist.all_reduce(self.tied.grad, group=self.place.ends_group)
        if self.work["clip"] > 0:
            self.clip()
        self.optimizer.step()
        return loss

    def clip(self):
        """Scales the gradient of all stages together to the greatest norm."""
        parameters = list(self.part.parameters())
        if self.place.stages == 1:
            nn.utils.clip_grad_norm_(parameters, self.work["clip"])
            return
        # A tied matrix counts on the first stage only.
        again = self.tied if self.place.stage > 0 else None
        squared = nn.utils.get_total_norm([p.grad for p in parameters if p is not again]).square()
        dist.all_reduce(squared, group=self.place.stage_group)
        nn.utils.clip_grads_with_norm_(parameters, self.work["clip"], squared.sqrt())

    def run(self):
        warm_up, steps = self.work["warm_up_steps"], self.work["steps"]
        losses = [self.step(number) for number in range(warm_up)]
        self.wait_for_all()
        self.mark("measuring")
        first = time.perf_counter()
        losses += [self.step(warm_up + number) for number in range(steps)]
        self.wait_for_all()
        seconds = time.perf_counter() - first
        self.mark("measured")
        # Only last stages have losses, and each the mean of as many samples.
        losses = torch.stack(losses).double() / self.place.replicas
        if self.place.world > 1:
            dist.all_reduce(losses)
        return {
            "mode": self.work["mode"],
            "world": self.place.world,
            "tokens_per_s": round(self.batch * self.length * steps / seconds, 1),
            "ms_per_step": round(1e3 * seconds / steps, 2),
            "steps": steps,
            "losses": losses.tolist(),
        }

    def mark(self, word):
        """Tells whoever counts bytes on a link."""
        if self.place.rank == 0:
            print(word, flush=True)

    def wait_for_all(self):
        if self.place.world > 1:
            dist.barrier()


def main():
    trainer = Trainer(Path(sys.argv[1]))
    report = trainer.run()
    if trainer.place.rank == 0:
        print(json.dumps(report), flush=True)
    if trainer.place.world > 1:
        trainer.wait_for_all()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
