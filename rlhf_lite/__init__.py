"""rlhf-lite: shape a small language model by your own taste, on one GPU, from a terminal.

The root is plain Python; ``engine/`` is torch; ``tui/`` is Textual; they meet only in files. Imports point down this
map; a module names what it decided and what it left out in its own docstring.

    __main__.py     the app at once, or the commands
    cli.py          the commands · looking.py those that only look · demo.py the whole pipeline on the built-in model
    options.py      every option, described once · narrate.py progress and Ctrl-C · plain.py labelling and chat by lines
    chats.py        a project's saved conversations
    conversation.py a chat's turns and commands · voices.py who answers in it · talker.py asks without waiting
    overview.py     where a project stands, the next command · checklist.py the same as eight steps
    history.py      a run's size, another one like it, its end · bugreport.py what may be told of a fault
    stages.py       what a run starts from, and every check before a process is spawned
    starting.py     what a project starts from: models to pick, what each needs here, making the folder
    accelerated.py  PPO in several processes and its tracker: what this machine cannot
    base_model.py   checks of a model folder · config.py the user's own settings · doctor.py what this machine has
    health.py       is a run healthy, in words with an action → signs.py each sign by itself
    report.py       tables, JSON and errors as people and scripts read them
    jobs.py         spawns, stops, watches the child processes; locks
    memory.py       free memory of the device, who holds it, what fits
    project.py      the project folder, its runs; fold(events) → status
    hub.py          where a model's files lie on this machine
    planning.py     the memory plan: what each stage needs, the nearest change that fits → moments.py what each holds
    catalog.py      known models · functions.py names a judge or reward file
    exports.py      the formats of an export, the commands that use one
    needs.py        bytes of weights, adapters, caches, passes · shapes.py a model's matrices, by its config alone
    quants.py       bytes of an exported file, by its type
    formats.py      preference data in and out · rows.py what a row means
    sitting.py      one person's labelling session: what is asked next, what the answers add up to
    votes.py        blind votes on an evaluation's answers · intervals.py of proportions · figures.py as words
    labels.py       verdicts on pairs (SQLite) · events.py what a job says · settings.py presets and a run's settings
    store.py        the store's file: prompts, answers and pairs
    schema.py       its migrations · records.py files as records
    toml_edit.py    one value of a TOML text, the rest as it was
    paths.py        where things live · errors.py the error tree

    tui/app.py             the terminal app: opens a project, shows its pages, tells them what its runs do
    screens/               a file a page; pages.py names them · widgets/ what pages are built of
    page.py                what every page is: top row, footer, errors told · desk.py what they all work with
    feed.py                runs: what they say, their starts, ends and deaths · messages.py how pages hear of it
    keys.py                every key, once · keysets.py keys that are moved · words.py what they do · themes.py
    garbage.py             when Python looks for garbage

    engine/__main__.py     runs one verb under its locks; every way it can end is one event
    the stages             candidates.py (generate) judge.py (label) sft.py reward.py dpo.py ppo.py evaluate.py
                           exporting.py download.py probe.py · sessions: chat.py talk.py preview.py serve.py
    completion.py          an answer in the words of OpenAI's API
    ppo.py                 the loop → update.py clipped updates · validation.py which checkpoint is best · outcome.py
    learner.py             what PPO trains and a resume needs · processes.py one run on several GPUs, by Accelerate ·
                           shares.py their rollouts as one
    trainers.py pairs.py   what the stages on TRL's trainers share · the decided pairs as token ids ·
                           leash.py ends a DPO that goes too far
    rollout.py             one batch with all PPO needs · scoring.py who scores it · batches.py rows laid out together
    critic.py              what an answer will still earn · checkpoint.py atomic checkpoints
    session.py             what the sessions share · decoder.py one answer, token by token, of a view of the base
    sampling.py            batched generation with log-probs · prompts.py the project's prompts as token ids
    merged.py              a view with one matrix a layer, while one samples on a CPU
    job.py                 what a stage works with: settings, events, stops
    llama.py               the one wrapper of llama_cpp · gguf_file.py checks a file before it · drawing.py a token of
                           its logits · offload.py where a file goes, by what is free
    base.py                SharedBase: the one quantized base and the adapters on it
    heads.py               the reward head · objectives.py logprobs.py the arithmetic of PPO · statistics.py means
    text.py                chat template, ids, padding · chat_template.py templates in a sandbox
    export/                formats.py what is made of a tuned model, in order · stage.py whole or not at all
                           merge.py gguf.py write the file · architectures.py positions.py what models differ in ·
                           vocab.py tokenizer_kind.py its tokens, llama.cpp's name for a tokenizer
                           quantize.py worker.py llama.cpp's own code in a child
                           verify.py proves it equal to the tuned model → reference.py that model as evaluated
                           folders.py safetensors, PEFT · lora.py the adapter as GGUF · modelfile.py for Ollama
                           card.py chart.py origin.py the model card, its picture, what it tells
"""

from __future__ import annotations

__version__ = "0.1.0"
