"""What all rows of tools/bench_pytorch.py share: warm-up, timing by CUDA graphs, the gate of what is compiled, JSON lines."""

import gc
import itertools
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch

import bicl_torch as peer

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# What is compiled, and what is captured as a CUDA graph. Of single operations only the first two are peers.
VARIANTS = {"eager": (False, False), "compile": (True, False), "graph": (False, True), "compile_graph": (True, True)}
# Inputs of a row rotate through so many bytes, in so many sets at most, as in benches/kernels/harness.rs.
ROTATION, MOST_SETS = 192 << 20, 16
# A graph of single operations takes about so many seconds, and holds at most so many calls.
REPLAY, MOST_CALLS = 1e-3, 256


def by(numbers):
    return "x".join(str(n) for n in numbers)


def first_line(error):
    return f"{type(error).__name__}: {(str(error).strip() or repr(error)).splitlines()[0]}"


class Closed(Exception):
    """What is compiled was called before the gate opened."""


class Gate:
    """Lets what is compiled run only once the file exists; without a file it is open."""

    def __init__(self, path):
        self.path = path
        self.closed = path is not None
        self.begun = time.perf_counter()

        def backend(graph, inputs):
            # Takes seconds, which those that compile nothing need not spend.
            from torch._inductor.compile_fx import compile_fx

            compiled = compile_fx(graph, inputs)

            def run(*arguments):
                if self.closed:
                    raise Closed
                return compiled(*arguments)

            return run

        # One object: code compiled for another backend is compiled anew.
        self.backend = "inductor" if path is None else backend

    def compile(self, function):
        return torch.compile(function, dynamic=False, backend=self.backend)

    def ahead(self, run):
        """Compiles what `run` calls first, as long as the gate is closed."""
        if self.closed:
            try:
                run()
            except Closed:
                pass

    def wait(self):
        if self.closed:
            print(f"gate: ready after {time.perf_counter() - self.begun:.1f} s", flush=True)
        while self.closed:
            self.closed = not Path(self.path).exists()
            time.sleep(0.02)


class Rotating:
    """`run` on one set of inputs after the other."""

    def __init__(self, run, sets):
        self.run, self.calls, self.turn = run, len(sets), itertools.cycle(sets)

    def __call__(self):
        return self.run(*next(self.turn))


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.dtype = DTYPES[arguments.dtype]
        self.gate = Gate(arguments.gate)
        self.file = open(arguments.json, "a") if arguments.json else None
        self.failed = 0
        # Rows are compiled and not timed.
        self.compiling = False

    # --- times ---------------------------------------------------------------------------------------------------

    def once(self, run):
        """Seconds of one call."""
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def repeated(self, run):
        """Seconds of each call, for at least --seconds and 5 calls."""
        times, spent = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - spent < self.arguments.seconds:
            times.append(self.once(run))
        return times

    def captured(self, run, calls):
        """A graph of so many calls. Warm-up, autograd's forward passes and capture share the bench's own stream."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            for _ in range(calls):
                run()
        return graph

    def replayed(self, graph, calls, count):
        """Seconds a call of each replay; they are queued one behind the other, so that the GPU does not wait for the host."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        graph.replay()
        for event in events:
            event.record()
            if event is not events[-1]:
                graph.replay()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 / calls for start, end in itertools.pairwise(events)]

    def graphed(self, run):
        """Seconds a call of each replay, for at least --seconds and 5 replays."""
        sets = getattr(run, "calls", 1)
        graph = self.captured(run, sets)
        one = statistics.median(self.replayed(graph, sets, 3))
        # Whole turns, so that every replay meets the same inputs.
        calls = sets * max(1, min(math.ceil(REPLAY / (one * sets)), MOST_CALLS // sets))
        if calls != sets:
            del graph
            graph = self.captured(run, calls)
        count = math.ceil(self.arguments.seconds / (one * calls))
        return self.replayed(graph, calls, min(max(count, 5), 500))

    def timed(self, run, graph):
        """Fields of a row that is warm."""
        times, fields = None, {"timed": "clock" if self.device.type == "cpu" else "events"}
        if graph and self.device.type == "cuda":
            try:
                times, fields = self.graphed(run), {"timed": "graph"}
            except RuntimeError as error:
                # OOM would meet the calls without a graph too; it is a RuntimeError as well.
                fields["graph_error"] = first_line(error)
            if times is None:
                self.recover()
        times = times or self.repeated(run)
        return {"ms": statistics.median(times) * 1e3, "least_ms": min(times) * 1e3, "reps": len(times), **fields}

    def recover(self):
        """Frees what a failure left; raises where the GPU's context is dead."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    # --- rows ----------------------------------------------------------------------------------------------------

    def wants(self, op, shape, direction, dtype=None):
        label = f"{op} {direction} {shape} {dtype or self.arguments.dtype}"
        return not self.arguments.filter or any(text in label for text in self.arguments.filter)

    def row(self, op, shape, direction, prepare, name="eager", dtype=None, graph=True, **more):
        """Times what `prepare` gives after warming up, and writes the row, or why there is none."""
        if not self.wants(op, shape, direction, dtype):
            return
        if self.compiling:
            if VARIANTS.get(name) == VARIANTS["compile"]:
                self.gate.ahead(prepare())
            return
        row = {
            "op": op, "shape": shape, "direction": direction, "dtype": dtype or self.arguments.dtype,
            "device": self.device.type, "peer": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
        }  # fmt: skip
        try:
            row |= {**self.measured(prepare, graph), **more}
            for work, rate in (("flop", "operations_per_second"), ("bytes", "bytes_per_second")):
                if work in more:
                    row[rate] = more[work] / row["ms"] * 1e3
        except Exception as error:  # noqa: BLE001
            row["error"] = first_line(error)
        line = json.dumps(row)
        print(line, flush=True)
        if self.file:
            self.file.write(line + "\n")
            self.file.flush()
        if "error" in row:
            self.failed += 1
            try:
                self.recover()
            except RuntimeError as error:
                sys.exit(f"error: after {op} {shape} {direction} the GPU answers nothing more: {first_line(error)}")

    def measured(self, prepare, graph):
        cuda = self.device.type == "cuda"
        # What the row before left idle is no part of this one's peak, and may be what it lacks.
        if cuda and not self.gate.closed:
            torch.cuda.empty_cache()
        run = prepare()
        self.gate.ahead(run)
        self.gate.wait()
        for _ in range(max(3, min(getattr(run, "calls", 1), 4))):
            run()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        fields = self.timed(run, graph)
        if cuda:
            fields["peak_mib"] = torch.cuda.max_memory_allocated() >> 20
        return fields

    def rotating(self, run, make, nbytes):
        """`run` on one set of inputs after the other, `nbytes` being what one call moves."""
        return Rotating(run, [make() for _ in range(min(max(-(-ROTATION // nbytes), 2), MOST_SETS))])

    def variants(self, function):
        """The function as it is, and compiled, as asked for."""
        for name in self.arguments.variants:
            compiled, graphed = VARIANTS[name]
            if graphed:
                continue
            # What was compiled for another shape must not lead to a kernel for any shape. What was compiled ahead is kept.
            if compiled and self.gate.path is None:
                torch.compiler.reset()
            yield name, self.gate.compile(function) if compiled else function

    def image(self, n, h, w, c):
        """N,H,W,C in memory."""
        return self.randn(n, c, h, w, dtype=self.dtype).contiguous(memory_format=torch.channels_last)

    def randn(self, *shape, dtype=torch.float32):
        return torch.randn(*shape, device=self.device).to(dtype)

    def labels(self, count, size, classes):
        """Regions, not noise: a coarse grid of classes, upsampled, a tenth ignored."""
        coarse = torch.randint(classes, (count, 9, 9), device=self.device)
        coarse[torch.rand(coarse.shape, device=self.device) < 0.1] = peer.IGNORE
        return peer.resize_nearest(coarse, size)
