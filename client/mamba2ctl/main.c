/* main.c - mamba2ctl: the table of commands, and the way from the words of a command line to one of them. */
#include <string.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"

struct ctl ctl_state = {.connect_timeout_s = 10};

const struct ctl_option ctl_global_options[] = {
	{"runtime-dir", 0, CTL_TEXT, "DIR", &ctl_state.runtime_dir,
		"the daemon's directory ($MAMBA2_RUNTIME_DIR, else"
		" /run/mamba2d, else $XDG_RUNTIME_DIR/mamba2d)"},
	{"connect-timeout", 0, CTL_INT, "SECONDS", &ctl_state.connect_timeout_s,
		"how long to wait for the daemon to answer (10)"},
	{"json", 0, CTL_FLAG, NULL, &ctl_state.json, "print JSON instead of tables and text"},
	{"help", 'h', CTL_FLAG, NULL, &ctl_state.help, "this help; after a command: its help"},
	{"version", 0, CTL_FLAG, NULL, &ctl_state.version, "print the version"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

const struct ctl_command ctl_commands[] = {
	{"generate", "NAME [PROMPT]", "continue a prompt and stream the text",
		"The prompt is the argument, or --file, or standard input, or token ids "
		"(--tokens).\n"
		"What is not given takes the variant's defaults. Ctrl-C stops the generation and\n"
		"keeps what came.\n\n"
		"  mamba2ctl generate demo 'In the beginning' -n 100\n"
		"  mamba2ctl generate demo --file story.txt --temperature 0.7 --top-p 0.9 --seed "
		"7\n"
		"  echo 'Dear Sir,' | mamba2ctl generate demo --stop 'Yours' --completions 3\n"
		"  mamba2ctl generate demo --tokens 1,2,3 -n 24 --temperature 0 --print-tokens\n"
		"  mamba2ctl generate demo 'Hello' -n 5 --logprobs 3      what else it "
		"considered\n\n"
		"Models trained for it (show tells the template) answer a message, or fill a "
		"gap:\n\n"
		"  mamba2ctl generate codestral --chat 'Reverse a string in C.' --system 'Be "
		"brief.'\n"
		"  mamba2ctl generate codestral 'int add(int a, int b) {' --suffix '}'\n",
		ctl_generate_options, 1, 2, ctl_run_generate},
	{"score", "NAME [TEXT]", "log-probability of a given text, token by token",
		"Reads a text and says how probable the model finds each of its tokens, given "
		"those\n"
		"before it, and how many bits per byte the whole costs. The first token has "
		"nothing\n"
		"before it and is not counted.\n\n"
		"  mamba2ctl score demo 'And the king said unto him'\n"
		"  mamba2ctl score demo --file heldout.txt --top 3\n"
		"  mamba2ctl score demo --tokens 1,2,3 --logits logits.safetensors\n",
		ctl_score_options, 1, 2, ctl_run_score},
	{"tokenize", "NAME [TEXT]", "text to token ids",
		"  mamba2ctl tokenize demo 'Hello world'\n"
		"  mamba2ctl tokenize demo --file story.txt --json\n",
		ctl_tokenize_options, 1, 2, ctl_run_tokenize},
	{"detokenize", "NAME", "token ids to text",
		"  mamba2ctl detokenize demo --tokens 72,101,108,108,111\n", ctl_detokenize_options,
		1, 1, ctl_run_detokenize},
	{"list", "", "the variants you may use, and whether they are resident",
		"  mamba2ctl list\n  mamba2ctl list --json\n", NULL, 0, 0, ctl_run_list},
	{"show", "NAME", "one variant in full: configuration, checkpoint, footprint",
		"  mamba2ctl show demo\n", NULL, 1, 1, ctl_run_show},
	{"ps", "", "resident variants with their load, and your own requests", "  mamba2ctl ps\n",
		NULL, 0, 0, ctl_run_ps},
	{"cancel", "REQUEST", "stop a request by the number that ps shows",
		"Takes effect at the next step; its client keeps what came.\n\n"
		"  mamba2ctl cancel 1700000000000042\n  mamba2ctl cancel --admin "
		"1700000000000042\n",
		ctl_cancel_options, 1, 1, ctl_run_cancel},
	{"status", "", "the daemon: version, processes, devices, counters", "  mamba2ctl status\n",
		NULL, 0, 0, ctl_run_status},
	{"load", "NAME", "make a variant resident (administrators)",
		"Returns when it is resident. Without load, the first request loads it, if the\n"
		"daemon is configured so. Where there is no room, the least recently used ones "
		"leave;\n"
		"--dry-run tells which, and what would be taken, and does nothing.\n\n"
		"  mamba2ctl load demo\n  mamba2ctl load demo --dry-run\n"
		"  mamba2ctl load demo --pin      it stays until it is unloaded\n",
		ctl_load_options, 1, 1, ctl_run_load},
	{"unload", "NAME", "take a variant off its device (administrators)",
		"Running requests may finish for --wait seconds and are then cancelled.\n\n"
		"  mamba2ctl unload demo\n  mamba2ctl unload demo --wait 0\n",
		ctl_unload_options, 1, 1, ctl_run_unload},
	{"inspect", "PATH", "what a checkpoint is, and whether it would be accepted",
		"Needs no daemon. PATH is a directory with a config and weights, or one .gguf "
		"file.\n"
		"Says dialect, shapes, types, bytes, the tokenizer and what is worth a warning; "
		"exits\n"
		"1 if mamba2d would refuse it, and says why.\n\n"
		"  mamba2ctl inspect configs/demo\n"
		"  mamba2ctl inspect /srv/models/mamba2-130m --json\n",
		ctl_inspect_options, 1, 1, ctl_run_inspect},
	{"register", "PATH", "register a variant from a YAML file or a checkpoint (administrators)",
		"The daemon keeps the text; the file is not needed afterwards. Relative paths in "
		"it\n"
		"are taken from the file's own directory. configs/reference.yaml lists all "
		"keys.\n"
		"A checkpoint (a directory or a .gguf file) is inspected first, and the YAML is "
		"made\n"
		"from that; --print keeps it for you instead of registering it.\n\n"
		"  mamba2ctl register configs/demo/demo.yaml\n"
		"  mamba2ctl register mine.yaml --replace\n"
		"  mamba2ctl register /srv/models/mamba2-130m --name mamba2-130m --alias small\n"
		"  mamba2ctl register /srv/models/mamba2-130m --name small --print > small.yaml\n",
		ctl_register_options, 1, 1, ctl_run_register},
	{"verify", "NAME", "are its files still what was recorded? (administrators)",
		"Reads every file of the checkpoint and the tokenizer again and compares SHA-256\n"
		"checksums with those that the first load recorded. The variant need not be "
		"loaded;\n"
		"serving goes on. Exits 1 if a file is changed, missing or unreadable.\n\n"
		"  mamba2ctl verify demo\n"
		"  mamba2ctl verify demo --record      I changed it: what is there now is right\n",
		ctl_verify_options, 1, 1, ctl_run_verify},
	{"remove", "NAME", "take a variant out of the registry (administrators)",
		"It is unloaded first. A variant that comes from a file in a variant directory "
		"comes\n"
		"back with the next reload, unless the file is gone too.\n\n  mamba2ctl remove "
		"mine\n",
		NULL, 1, 1, ctl_run_remove},
	{"reload", "", "read configuration and variant directories again (administrators)",
		"The same as SIGHUP, with an answer.\n\n  mamba2ctl reload\n", NULL, 0, 0,
		ctl_run_reload},
	{"drain", "", "accept no new work (administrators)",
		"Returns when the running work is done, or was cancelled after --wait seconds.\n\n"
		"  mamba2ctl drain\n  mamba2ctl drain --stop --wait 60\n  mamba2ctl drain "
		"--resume\n",
		ctl_drain_options, 0, 0, ctl_run_drain},
	{"version", "", "of this program, its library, and the daemon", "  mamba2ctl version\n",
		NULL, 0, 0, ctl_run_version},
	{NULL, NULL, NULL, NULL, NULL, 0, 0, NULL}};

int ctl_connect(struct ctl *ctl, bool control, int64_t answer_timeout_ms)
{
	mamba2_options o = MAMBA2_OPTIONS_INIT;
	o.runtime_dir = ctl->runtime_dir;
	o.control = control;
	o.timeout_ms = answer_timeout_ms;
	const int64_t wait_ms = ctl->connect_timeout_s * 1000;
	const int64_t quiet_ms = wait_ms < 1500 ? wait_ms : 1500;
	o.connect_timeout_ms = quiet_ms < 1 ? 1 : quiet_ms;
	enum mamba2_error error = mamba2_connect(&o, &ctl->m);
	if (error == MAMBA2_EUNREACHABLE && wait_ms > quiet_ms) {
		if (isatty(STDERR_FILENO))
			(void)fprintf(stderr, "waiting for mamba2d: %s\n", mamba2_message(NULL));
		o.connect_timeout_ms = wait_ms - quiet_ms;
		error = mamba2_connect(&o, &ctl->m);
	}
	return error == MAMBA2_OK ? CTL_OK : ctl_fail(ctl, error);
}

static const struct ctl_command *find_command(const char *name)
{
	for (const struct ctl_command *c = ctl_commands; c->name != NULL; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

/* The first word that is no option: a command's options must be known before they can be parsed. */
static int command_word(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] != '-')
			return i;
		for (const struct ctl_option *o = ctl_global_options; o->name != NULL; o++)
			if (o->value != NULL && argv[i][1] == '-' &&
				strcmp(argv[i] + 2, o->name) == 0) {
				i++; /* its value is no command */
				break;
			}
	}
	return argc;
}

static int run(struct ctl *ctl, int argc, char **argv)
{
	const struct ctl_command *c = ctl->command;
	if (!ctl_parse(c->options, &argc, argv))
		return CTL_USAGE;
	if (ctl->help != 0) {
		ctl_command_help(c);
		return CTL_OK;
	}
	if (ctl->connect_timeout_s < 0 || ctl->connect_timeout_s > 86400)
		return ctl_say(CTL_USAGE, "--connect-timeout: from 0 to 86400 seconds");
	if (argc < c->min_arguments || argc > c->max_arguments)
		return ctl_say(CTL_USAGE,
			"usage: mamba2ctl %s%s%s   (mamba2ctl %s --help says more)", c->name,
			c->arguments[0] != '\0' ? " " : "", c->arguments, c->name);
	return c->run(ctl, argc, argv);
}

int main(int argc, char **argv)
{
	const int at = command_word(argc, argv);
	const bool asks_help = at < argc && strcmp(argv[at], "help") == 0;
	const int named = asks_help ? at + 1 : at;
	if (named < argc && (ctl_state.command = find_command(argv[named])) == NULL)
		return ctl_say(CTL_USAGE, "there is no command \"%s\"; mamba2ctl --help lists them",
			argv[named]);
	if (asks_help)
		ctl_state.help = 1;
	/* the command's word leaves; options before and after it are parsed alike */
	int rest = 0;
	for (int i = 1; i < argc; i++)
		if (i != at && !(asks_help && i == named))
			argv[rest++] = argv[i];
	if (ctl_state.command == NULL) {
		if (!ctl_parse(NULL, &rest, argv))
			return CTL_USAGE;
		if (ctl_state.version != 0) {
			(void)printf("mamba2ctl %s\n", mamba2_version());
			return ctl_flush(CTL_OK);
		}
		ctl_help();
		return ctl_flush(ctl_state.help != 0 ? CTL_OK : CTL_USAGE);
	}
	const int status = run(&ctl_state, rest, argv);
	ctl_free_options(ctl_state.command->options);
	mamba2_close(&ctl_state.m);
	return ctl_flush(status);
}
