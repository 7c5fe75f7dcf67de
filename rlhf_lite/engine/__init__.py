"""The only place for torch, transformers, peft, trl, bitsandbytes and llama_cpp. Runs as a child process."""
