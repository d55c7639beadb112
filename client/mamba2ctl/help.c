/* help.c - help made from the tables, so that it cannot lag behind them. */
#include <string.h>

#include "client/mamba2ctl/ctl.h"

static void print_options(const struct ctl_option *o)
{
	for (; o != NULL && o->name != NULL; o++) {
		char left[64];
		(void)snprintf(left, sizeof left, "%c%c%s--%s%s%s", o->letter != 0 ? '-' : ' ',
			o->letter != 0 ? o->letter : ' ', o->letter != 0 ? ", " : "  ", o->name,
			o->value != NULL ? " " : "", o->value != NULL ? o->value : "");
		(void)printf("  %-32s %s\n", left, o->help);
	}
}

void ctl_help(void)
{
	(void)fputs(
		"usage: mamba2ctl COMMAND ...\n\n"
		"Talks to mamba2d, the daemon that serves Mamba-2 language models on this host.\n"
		"A model is a variant with a name; list shows those you may use.\n\n"
		"  mamba2ctl register configs/demo/demo.yaml      make a model known, once\n"
		"  mamba2ctl load demo                            put it on its device\n"
		"  mamba2ctl generate demo 'In the beginning'     and use it\n\n"
		"commands (mamba2ctl COMMAND --help explains one, with examples):\n",
		stdout);
	for (const struct ctl_command *c = ctl_commands; c->name != NULL; c++)
		(void)printf("  %-11s %-15s %s\n", c->name, c->arguments, c->summary);
	(void)fputs("\noptions of every command:\n", stdout);
	print_options(ctl_global_options);
	(void)fputs("\nexit status: 0 done, 1 refused or failed (a sentence with its code is on "
		    "standard\n"
		    "error), 2 wrong usage, 3 no daemon answers, 130 interrupted\n",
		stdout);
}

void ctl_command_help(const struct ctl_command *c)
{
	(void)printf("usage: mamba2ctl %s%s%s%s\n\n%s.\n\n%s", c->name,
		c->arguments[0] != '\0' ? " " : "", c->arguments,
		c->options != NULL ? " [OPTION...]" : "", c->summary, c->text);
	if (c->options != NULL) {
		(void)fputs("\noptions:\n", stdout);
		print_options(c->options);
	}
	(void)fputs("\noptions of every command:\n", stdout);
	print_options(ctl_global_options);
}
