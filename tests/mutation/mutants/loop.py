"""The step, the loop around it, what it writes, and the devices it runs on."""

# ruff: noqa: E501

STEP = "tests/loop/test_train_step.py"
LOOP = "tests/loop/test_cadence.py tests/loop/test_stops.py"
CADENCE = "tests/loop/test_cadence.py"
ROWS = "tests/workdir/test_metrics_rows.py"
SIGNALS = "tests/devices/test_interrupts.py"
DEVICES = "tests/loop/test_parallel_specs.py"
POLICY = "tests/workdir/test_checkpoint_policy.py tests/workdir/test_checkpoint.py"

MUTANTS = {
    ("vit_jax/train.py", STEP): [
        ("jax.random.fold_in(state.rng, state.step)", "state.rng"),
        ("jax.random.fold_in(jax.random.fold_in(step_rng, shard), index)", "jax.random.fold_in(step_rng, index)"),
        ("jax.random.fold_in(jax.random.fold_in(step_rng, shard), index)", "jax.random.fold_in(step_rng, shard)"),
        ('"mix": jax.random.fold_in(step_rng, 2**31 - 1)', '"mix": dropout'),
        ('"mix": jax.random.fold_in(step_rng, 2**31 - 1)', '"mix": jax.random.fold_in(state.rng, 2**31 - 1)'),
        ("rngs=rngs, train=True)", "rngs=rngs, train=False)"),
        ('g / sums["loss"].weight', "g"),
        ("tx.update(gradients, state.opt_state, state.params)", "tx.update(gradients, state.opt_state, gradients)"),
        ("ema_decay * average + (1 - ema_decay) * new, ema, params", "ema_decay * average + (1 - ema_decay) * new, ema, state.params"),
        ("ema_decay * average + (1 - ema_decay) * new", "(1 - ema_decay) * average + ema_decay * new"),
        ("Sum(norm(gradients)", "Sum(norm(updates)"),
        ("Sum(norm(params)", "Sum(norm(state.params)"),
        ("state.replace(step=state.step + 1,", "state.replace("),
        ("opt_state=opt_state, ema=ema)", "ema=ema)"),
        ("gradients, sums = total if axis_name is None else jax.lax.psum(total, axis_name)",
         "gradients, sums = total\n    if axis_name is not None:\n        gradients = jax.lax.psum(gradients, axis_name)\n"
         '        sums = {**sums, "loss": jax.lax.psum(sums["loss"], axis_name)}'),
    ],
    ("vit_jax/train.py", LOOP): [
        ("ema_decay=config.optimizer.ema_decay,\n", ""),
        ("state.eval_params, ", "state.params, "),
        ('return self.metrics.last("eval") or {}\n        started', "return None\n        started"),
        ("self.window.flush()  # raises", "pass  # raises"),
        ('"window": self.window.sums', '"window": {}'),
        ("{**self._described, **progress}, result)", "{**self._described, **progress}, None)"),
        ("first_step % plan.eval_every == 0 or first_step == plan.total", "first_step == plan.total"),
        ("first_step % plan.eval_every == 0 or first_step == plan.total", "first_step % plan.eval_every == 0 and False"),
        ("data.train_batches(first_step, plan.total)", "data.train_batches(0, plan.total)"),
        ("range(first_step + 1, plan.total + 1)", "range(first_step + 1, plan.total)"),
        ("if not stop and (last or step % plan.eval_every == 0):", "if not stop and step % plan.eval_every == 0:"),
        ("stop = evaluated is None", "pass"),
        ("if stop or last or step % plan.checkpoint_every == 0:", "if stop or step % plan.checkpoint_every == 0:"),
        ("if stop or last or step % plan.checkpoint_every == 0:", "if last or step % plan.checkpoint_every == 0:"),
        ("save(step, evaluated)", "save(step, result)"),
        ("return result or {}", "return {}"),
        ("check_same_run(workdir, saved, self._described)", "pass"),
        ('saved=meta.get("window")', "saved=None"),
        ('metrics.write(step, "eval", {**result', 'metrics.write(step - 1, "eval", {**result'),
        ("if before in (None, now):", "if before:"),
        ('("keep_last", "keep_best", "best")', '("keep_last", "keep_best")'),
    ],
    ("vit_jax/state.py", LOOP): [
        ("return self.params if self.ema is None else self.ema", "return self.params"),
        ("PRNGKey(experiment.config.seed)", "PRNGKey(0)"),
        ("if experiment.config.optimizer.ema_decay else None", "if not experiment.config.optimizer.ema_decay else None"),
    ],
    ("vit_jax/experiment.py", CADENCE): [
        ('steps("log_every", config.log_every)', 'steps("log_every", config.eval_every)'),
        ("config.checkpoint.every),", "config.eval_every),"),
        ("if (best := config.checkpoint.best) not in task.scores:", "if (best := config.checkpoint.best) is None:"),
    ],
    ("vit_jax/workdir/lock.py", "tests/workdir/test_lock.py"): [
        ("is_alive = _started(holder[\"pid\"]) == holder[\"started\"]", "is_alive = _started(holder[\"pid\"]) is not None"),
        ('return None if state in "ZX" else started', "return started"),
        ("is_alive = now != holder", "is_alive = False"),
        ('not in (self._lease["token"], None)', 'not in (self._lease["token"],)'),
        ('        if not self._is_lost(_read(self._path)):\n            self._path.unlink', '        if True:\n            self._path.unlink'),
    ],
    ("vit_jax/workdir/checksum.py", "tests/workdir/test_damage.py"): [
        ("jnp.sum((2 * position + 1) * bits", "jnp.sum((position + 1) * 2 * bits"),
    ],
    ("vit_jax/workdir/checkpoint.py", "tests/workdir/test_damage.py"): [
        ('if "checksum" in meta and meta["checksum"]["arrays"] != checksum.of_parts(state):', "if False:"),
        ('meta["checksum"]["arrays"].get(wanted) != checksum.of_arrays(state[wanted])', "False"),
        ('saved.get("meta") != checksum.of_json(content)', "False"),
        ('unused(self.directory / f"damaged_{step}")', 'self.directory / f"damaged_{step}"'),
    ],
    ("vit_jax/workdir/claim.py", "tests/loop/test_claim.py"): [
        ("files.replace(path, config.to_json(indent=2)", "path.exists() or files.replace(path, config.to_json(indent=2)"),
        ("(was := saved.get(\"prng\", now)) != now", "(was := saved.get(\"prng\", now)) is None"),
    ],
    ("vit_jax/workdir/claim.py", LOOP): [
        ('for what in ("labels", "preprocessing"):', 'for what in ("preprocessing",):'),
    ],
    ("vit_jax/workdir/files.py", ROWS): [
        ("except ValueError:  # not JSON", "except ZeroDivisionError:  # not JSON"),
        ("temporary.replace(path)", "path.write_text(text)\n        temporary.unlink()"),
    ],
    ("vit_jax/workdir/metrics.py", ROWS): [
        ("self._schedule(step - 1)", "self._schedule(step)"),
        ("for row in reversed(self.rows) if", "for row in self.rows if"),
        ('if row["step"] <= first_step]', 'if row["step"] < first_step]'),
        ("value / weight for name", "value for name"),
        ("self._examples / seconds", "self._examples"),
        ("self._waited / seconds", "self._waited"),
        ("        self.sums = {}\n", ""),
        ("if pending.step % self._every == 0:", "if pending.step % self._every == 1:"),
        ("total[1] += float(weight)", "total[1] += 1"),
        ("            if not math.isfinite(value):\n                raise RunError(self._metrics", "            if False:\n                raise RunError(self._metrics"),
        ("_Pending(step, sums, rate, examples, ids)\n        self._waited", "None\n        self._fetch(_Pending(step, sums, rate, examples, ids))\n        self._waited"),
        ("self.rows.append(row)\n", "pass\n"),
        ("return any(row[\"step\"] == step and", "return any("),
    ],
    ("vit_jax/devices/interrupts.py", SIGNALS): [
        ("os._exit(128 + signum)", "return"),
        ("jax.jit(jnp.max", "jax.jit(jnp.min"),
        ("if self._agreed or step % AGREE_EVERY:", "if self._agreed or (step % AGREE_EVERY and not self._received):"),
        ("self._received, self.signum = True, signum", "self._received = True"),
        ("previous is not None and (signum := previous()):", "previous is not None and (signum := self.signum):"),
        ("signal.signal(number, handler)", "pass"),
        ("(signal.SIGTERM, signal.SIGINT)", "(signal.SIGTERM,)"),
    ],
    ("vit_jax/devices/parallel.py", DEVICES): [
        ("np.prod(shape) < self.smallest", "np.prod(shape) >= self.smallest"),
        ("np.prod(shape) < self.smallest", "np.prod(shape) <= self.smallest"),
        ("largest = max(dims", "largest = min(dims"),
        ("size % self._mesh.size == 0", "True"),
        ("constrain(x, self._sharding(x.shape))", "constrain(x, NamedSharding(self._mesh, P()))"),
        ("in_axes=(None, 0), out_axes=None, donate_argnums=0)", "in_axes=(None, 0), out_axes=None)"),
        ("return jax.jit(sharded, donate_argnums=0)", "return jax.jit(sharded)"),
        ("np.asarray(x).reshape(-1, *x.shape[2:])", "np.asarray(x).swapaxes(0, 1).reshape(-1, *x.shape[2:])"),
        ("if batch_size % shares:", "if batch_size % batch_shares(devices_per_clip):"),
    ],
    ("vit_jax/workdir/best.py", POLICY): [
        ('("loss", "perplexity")', '("loss",)'),
        ("-1 if name in _LOWER_IS_BETTER else 1", "1 if name in _LOWER_IS_BETTER else -1"),
        ("best = ranked[len(ranked) - min(self._count, len(ranked)) :]", "best = ranked[: self._count]"),
        ("best = ranked[len(ranked) - min(self._count, len(ranked)) :]", "best = ranked[-self._count :]"),
    ],
    ("vit_jax/workdir/best.py", CADENCE): [
        ("self._sign * metrics[self._name]", 'self._sign * metrics.get("top1", metrics[self._name])'),
    ],
    ("vit_jax/workdir/checkpoint.py", POLICY): [
        ("saved_steps(workdir)[:count]", "saved_steps(workdir)[-count:]"),
        ("np.asarray(x, np.float64) / count", "x / np.float32(count)"),
        ("np.asarray(x, np.float64) / count", "np.asarray(x, np.float64)"),
        ("for step in reversed(steps):", "for step in steps:"),
        ("meta = json.loads(json.dumps(meta))", "pass"),
        ("sorted(self._manager.all_steps(), reverse=True)", "sorted(self._manager.all_steps())"),
        ('wanted = "ema" if tree.get("ema") else "params"', 'wanted = "params"'),
        ("if name.isdecimal()), reverse=True)", "if name.isdecimal()))"),
        ("keep.LatestN(max(keep_last, 1))", "keep.LatestN(1)"),
    ],
    ("vit_jax/workdir/checkpoint.py", CADENCE): [
        ('_read_meta(self.directory / str(step)).get("metrics")', "None"),
    ],
    ("vit_jax/workdir/claim.py", "tests/loop/test_stops.py tests/config/recipes/test_transformer_config.py"): [
        ('for what in ("labels", "preprocessing"):', 'for what in ("preprocessing",):'),
        ('for what in ("labels", "preprocessing"):', 'for what in ("labels",):'),
        ('schema.differences(saved["config"], described["config"])', 'schema.differences(saved["config"], saved["config"])'),
    ],
    ("vit_jax/state.py", "tests/loop/test_cadence.py tests/test_run.py tests/commands/test_commands.py"): [
        ("jnp.copy, params) if experiment.config.optimizer.ema_decay else None", "jnp.zeros_like, params) if experiment.config.optimizer.ema_decay else None"),
        ("params=params, ema=None if state.ema is None else params", "params=params"),
        ("experiment.init_params(init_rng)", "experiment.init_params(jax.random.PRNGKey(0))"),
        ("return self.params if self.ema is None else self.ema", "return self.params"),
    ],
    ("vit_jax/experiment.py", "tests/test_run.py tests/loop/test_cadence.py"): [
        ("config = complete(config, own)", "config = complete(config, None)"),
        ("if not (keep_model and name.startswith(\"model.\"))", "if not name.startswith(\"model.\")"),
        ("log_every if log_every <= total else min(eval_every, total)", "log_every"),
        ("checkpoint_every=steps(\"checkpoint.every\", config.checkpoint.every)", "checkpoint_every=steps(\"eval_every\", config.eval_every)"),
    ],
    ("vit_jax/run.py", "tests/test_run.py tests/commands/test_video_commands.py"): [
        ("while position in settled:", "while False:"),
        ("position += 1", "position += 2"),
        ('on_error == "raise"', 'on_error != "raise"'),
        ("return make_parallel(self.config.parallel, self.config.devices_per_clip)", 'return make_parallel("pmap")'),
        ("check_labels(self.labels, labels,", "check_labels(self.labels, self.labels,"),
        ('self.with_views(clips=1, crops=1) if getattr(self.encoder, "views", 1) > 1 else self', "self"),
        ("task=dataclasses.replace(self.task, **fields)", "task=self.task"),
    ],
    ("vit_jax/load.py", "tests/test_run.py"): [
        ("load_checkpoint(path) if average == 1 else", "load_checkpoint(path) if average else"),
    ],
    ("vit_jax/evaluate.py", CADENCE + " tests/tasks/test_evaluator.py tests/commands/test_commands.py"): [
        ("return {name: values[real] for", "return {name: values for"),
        ('order = np.argsort(rows["id"], kind="stable")', 'order = np.argsort(-rows["id"], kind="stable")'),
        ("        if pending:\n            yield self._real_rows(*pending)\n\n", "\n"),
        ("values[::views] for", "values[:1] for"),
    ],
}  # fmt: skip
