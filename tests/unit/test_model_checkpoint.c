/* test_model_checkpoint.c - directories that are right, and each way in which one can be wrong.
 * Containers other than safetensors are test_model_containers.c's. */
#include "tests/unit/checkpoint_place.h"

#include "model/shards.h"

static void a_single_file_is_read(void **state)
{
	struct place *p = *state;
	write_all(p, "{" CONFIG "}");
	write_text(p, "generation_config.json", "{\"eos_token_id\":[3,4]}");
	struct m2_checkpoint *c = accept(p);
	assert_string_equal(m2_checkpoint_container(c), "safetensors");
	assert_int_equal(m2_checkpoint_parameters(c), 878);
	assert_int_equal(m2_checkpoint_bytes(c), 878 * 4);
	assert_int_equal(m2_checkpoint_config(c)->n_eos, 2);
	assert_true(first_of(c, -1, M2_W_HEAD) == 2.0f);
	assert_true(first_of(c, 0, M2_W_CONV) == 5.0f);
	assert_true(first_of(c, 0, M2_W_OUT_PROJ) == 11.0f);
	const struct m2_weight_source s = m2_checkpoint_source(c);
	assert_int_equal(s.dtype(s.ctx, 0, M2_W_IN_BIAS), M2_DTYPE_NONE);
	m2_checkpoint_close(&c);
	assert_null(c);
}

static void shards_are_read_and_win_over_a_single_file(void **state)
{
	struct place *p = *state;
	FILE *file = create(p, "model.safetensors.index.json");
	(void)fprintf(file, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
	for (size_t i = 0; i < p->n; i++)
		(void)fprintf(file, "%s\"%s\":\"%s\"", i == 0 ? "" : ",", p->list[i].name,
			i < 6 ? "a.safetensors" : "b.safetensors");
	(void)fprintf(file, "}}");
	assert_int_equal(fclose(file), 0);
	write_text(p, "config.json", "{" CONFIG "}");
	write_text(p, "model.safetensors", "not one");
	write_shard(p, "a.safetensors", 0, 6);
	write_shard(p, "b.safetensors", 6, p->n);
	struct m2_checkpoint *c = accept(p);
	assert_string_equal(m2_checkpoint_container(c), "safetensors, 2 shards");
	assert_true(first_of(c, -1, M2_W_EMBEDDING) == 0.0f);
	assert_true(first_of(c, 0, M2_W_D) == 9.0f);
	m2_checkpoint_close(&c);

	write_shard(p, "b.safetensors", 5, p->n); /* one tensor in two files */
	refuse(p, M2_EFORMAT, "conv1d.weight, which model.safetensors.index.json lists in a.safe");
	write_shard(p, "b.safetensors", 7, p->n); /* one listed and not there */
	refuse(p, M2_EFORMAT, "does not hold it");
	p->list[11].name = "other"; /* one there and not listed */
	write_shard(p, "b.safetensors", 6, p->n);
	refuse(p, M2_EFORMAT, "does not list");
	char path[4200];
	(void)snprintf(path, sizeof path, "%s/b.safetensors", p->path);
	assert_int_equal(unlink(path), 0);
	refuse(p, M2_ENOENT, path);
}

static void an_index_names_plain_files_only(void **state)
{
	static const struct {
		const char *text, *word;
	} bad[] = {
		{"{\"weight_map\":{\"t\":\"../x.safetensors\"}}", "no plain file name"},
		{"{\"weight_map\":{\"t\":\"/etc/passwd\"}}", "no plain file name"},
		{"{\"weight_map\":{\"t\":\"a/b\"}}", "no plain file name"},
		{"{\"weight_map\":{\"t\":\"..\"}}", "no plain file name"},
		{"{\"weight_map\":{\"t\":\".\"}}", "no plain file name"},
		{"{\"weight_map\":{\"t\":\"\"}}", "no plain file name"},
		{"{\"weight_map\":{\"t\":\"a\\u0000b\"}}", "no plain file name"},
		{"{\"weight_map\":{\"t\":7}}", "no plain file name"},
		{"{\"weight_map\":{\"t\":null}}", "no plain file name"},
		{"{\"weight_map\":{\"t\":\"a\",\"t\":\"b\"}}", "twice"},
		{"{\"weight_map\":{}}", "no weight_map"},
		{"{}", "no weight_map"},
		{"[]", "no weight_map"},
	};
	char **names;
	size_t count;
	struct m2_why why;
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(m2_shards_parse_index(
					 bad[i].text, strlen(bad[i].text), &names, &count, &why),
			M2_EFORMAT);
		if (strstr(why.text, bad[i].word) == NULL)
			print_error("%s: %s\n", bad[i].text, why.text);
		assert_non_null(strstr(why.text, bad[i].word));
	}
	static const char good[] = "{\"weight_map\":{\"t\":\"a\",\"u\":\"b\",\"v\":\"a\"}}";
	assert_int_equal(m2_shards_parse_index(good, strlen(good), &names, &count, &why), M2_OK);
	assert_int_equal(count, 2);
	assert_string_equal(names[0], "a");
	assert_string_equal(names[1], "b");
	free(names[0]);
	free(names[1]);
	free(names);
}

static void names_of_every_dialect_are_known(void **state)
{
	struct place *p = *state;
	static const char *const prefixes[] = {"", "backbone.", "model.", "model.backbone."};
	char names[MAX_LIST][128];
	for (size_t k = 0; k < 4; k++) {
		for (size_t i = 0; i < p->n; i++) {
			const char *plain = usual[i].name;
			if (i != HEAD)
				plain += strlen("backbone.");
			const bool singular = i == 0 && k % 2 == 1;
			(void)snprintf(names[i], sizeof names[i], "%s%s",
				i == HEAD ? (k >= 2 ? "model." : "") : prefixes[k],
				singular ? "embedding.weight" : plain);
			p->list[i].name = names[i];
		}
		p->list[CONV].shape = k == 0 ? "[24,4]" : k == 1 ? "[24,4,1]" : "[24,1,4]";
		write_all(p, "{" CONFIG "}");
		struct m2_checkpoint *c = accept(p);
		assert_true(first_of(c, 0, M2_W_A_LOG) == (float)A_LOG);
		m2_checkpoint_close(&c);
	}
	p->list[p->n++] = (struct tensor){"backbone.layers.0.rotary_emb.inv_freq", "F32", "[1]", 1};
	write_all(p, "{" CONFIG "}");
	struct m2_checkpoint *c = accept(p);
	m2_checkpoint_close(&c);
}

static void every_float_type_is_read_and_f64_becomes_f32(void **state)
{
	static const char *const dtypes[] = {"F32", "F16", "BF16", "F64"};
	static const enum m2_dtype wanted[] = {
		M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16, M2_DTYPE_F32};
	struct place *p = *state;
	for (size_t k = 0; k < 4; k++) {
		p->list[A_LOG].dtype = dtypes[k];
		write_all(p, "{" CONFIG "}");
		struct m2_checkpoint *c = accept(p);
		const struct m2_weight_source s = m2_checkpoint_source(c);
		assert_int_equal(s.dtype(s.ctx, 0, M2_W_A_LOG), wanted[k]);
		assert_true(first_of(c, 0, M2_W_A_LOG) == (float)A_LOG);
		m2_checkpoint_close(&c);
	}
	p->list[A_LOG].dtype = "I16";
	write_all(p, "{" CONFIG "}");
	refuse(p, M2_EUNSUPPORTED, "A_log has dtype I16");
}

static void every_shape_is_compared_and_both_are_said(void **state)
{
	static const struct {
		size_t which;
		const char *shape, *words;
	} bad[] = {
		{0, "[8,16]", "[8, 16], the config asks for [16, 8]"},
		{0, "[128]", "[128], the config asks for [16, 8]"},
		{1, "[2,4]", "[2, 4], the config asks for [8]"},
		{HEAD, "[32,4]", "[32, 4], the config asks for [16, 8]"},
		{4, "[21,16]", "[21, 16], the config asks for [42, 8]"},
		{CONV, "[24,2,2]", "[24, 2, 2], the config asks for [24, 4]"},
		{CONV, "[12,1,8]", "[12, 1, 8], the config asks for [24, 4]"},
		{CONV, "[4,24]", "[4, 24], the config asks for [24, 4]"},
		{A_LOG, "[1,2]", "[1, 2], the config asks for [2]"},
		{11, "[16,8]", "[16, 8], the config asks for [8, 16]"},
	};
	struct place *p = *state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		use_usual(p);
		p->list[bad[i].which].shape = bad[i].shape;
		write_all(p, "{" CONFIG "}");
		refuse(p, M2_EFORMAT, bad[i].words);
		refuse(p, M2_EFORMAT, usual[bad[i].which].name);
	}
	use_usual(p);
	p->list[9] = (struct tensor){usual[9].name, "F32", "[16]", 16};
	write_all(p, "{" CONFIG "}");
	refuse(p, M2_EFORMAT, "mixer.D has shape [16], the config asks for [2]");
	write_all(p, "{" CONFIG ",\"D_has_hdim\":true}");
	struct m2_checkpoint *c = accept(p);
	m2_checkpoint_close(&c);
	p->list[9] = (struct tensor){usual[9].name, "F32", "[0]", 0};
	write_all(p, "{" CONFIG "}");
	refuse(p, M2_EFORMAT, "mixer.D has shape [0]");
}

static void missing_tensors_are_named(void **state)
{
	struct place *p = *state;
	for (size_t i = 0; i < N_USUAL; i++) {
		use_usual(p);
		p->list[i] = usual[N_USUAL - 1];
		p->n = N_USUAL - 1;
		write_all(p, "{" CONFIG "}");
		refuse(p, M2_EFORMAT, "1 tensors are missing: ");
		refuse(p, M2_EFORMAT, usual[i].name);
	}
	use_usual(p);
	p->n = N_USUAL;
	write_all(p, "{" CONFIG ",\"use_bias\":true}");
	refuse(p, M2_EFORMAT, "mixer.in_proj.bias");
	p->n = 1;
	write_all(p, "{" CONFIG "}");
	refuse(p, M2_EFORMAT, "11 tensors are missing");
	refuse(p, M2_EFORMAT, "...");
}

static void unknown_and_unwanted_tensors_are_refused(void **state)
{
	struct place *p = *state;
	p->list[p->n++] = (struct tensor){"backbone.layers.0.mlp.fc1.weight", "F32", "[1]", 1};
	p->list[p->n++] = (struct tensor){"score.weight", "F32", "[1]", 1};
	write_all(p, "{" CONFIG "}");
	refuse(p, M2_EUNSUPPORTED, "2 tensors are not of a Mamba-2 model");
	refuse(p, M2_EUNSUPPORTED, "backbone.layers.0.mlp.fc1.weight");
	refuse(p, M2_EUNSUPPORTED, "score.weight");
	static const char *const odd[] = {"backbone.layers.00.norm.weight",
		"backbone.layers.-1.norm.weight", "backbone.layers.99999999999.norm.weight",
		"backbone.layers..norm.weight", "backbone.lm_head.weight",
		"model.model.norm_f.weight", "norm.weight", "backbone.layers.0.norm_f.weight",
		"BACKBONE.norm_f.weight"};
	for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
		p->n = N_USUAL + 1;
		p->list[N_USUAL] = (struct tensor){odd[i], "F32", "[8]", 8};
		write_all(p, "{" CONFIG "}");
		refuse(p, M2_EUNSUPPORTED, odd[i]);
	}
	p->list[N_USUAL] = (struct tensor){"backbone.layers.1.norm.weight", "F32", "[8]", 8};
	write_all(p, "{" CONFIG "}");
	refuse(p, M2_EFORMAT, "layer 1, the config says 1 layers");
	p->list[N_USUAL] = (struct tensor){"backbone.embedding.weight", "F32", "[16,8]", 128};
	write_all(p, "{" CONFIG "}");
	refuse(p, M2_EFORMAT, "are the same weight");
	p->list[N_USUAL] =
		(struct tensor){"backbone.layers.0.mixer.in_proj.bias", "F32", "[42]", 42};
	write_all(p, "{" CONFIG "}");
	refuse(p, M2_EFORMAT, "the config says that there is none");
	p->n = N_USUAL;
	write_all(p, "{" CONFIG ",\"rmsnorm\":false}");
	refuse(p, M2_EFORMAT, "mixer.norm.weight is there");
}

static void a_tied_head_may_be_carried_along_if_it_is_the_embedding(void **state)
{
	struct place *p = *state;
	static const char tied[] = "{" CONFIG ",\"tie_word_embeddings\":true}";
	write_all(p, tied); /* the head's values are 2, the embedding's 0 */
	refuse(p, M2_EFORMAT, "lm_head.weight differs from backbone.embeddings.weight");
	p->list[HEAD].dtype = "BF16";
	write_all(p, tied);
	refuse(p, M2_EFORMAT, "differs");
	/* without it */
	p->list[HEAD] = usual[N_USUAL - 1];
	p->n = N_USUAL - 1;
	write_all(p, tied);
	struct m2_checkpoint *c = accept(p);
	const struct m2_weight_source s = m2_checkpoint_source(c);
	assert_int_equal(s.dtype(s.ctx, -1, M2_W_HEAD), M2_DTYPE_NONE);
	assert_int_equal(m2_checkpoint_parameters(c), 878 - 128);
	m2_checkpoint_close(&c);
	/* with one that is equal: each is the first of its own shard, so both hold zeros */
	p->list[0] = (struct tensor){"lm_head.weight", "F32", "[16,8]", 128};
	write_shard(p, "a.safetensors", 0, 1);
	use_usual(p);
	p->list[HEAD] = usual[N_USUAL - 1];
	write_shard(p, "b.safetensors", 0, N_USUAL - 1);
	FILE *file = create(p, "model.safetensors.index.json");
	(void)fprintf(file, "{\"weight_map\":{\"lm_head.weight\":\"a.safetensors\"");
	for (size_t i = 0; i < N_USUAL - 1; i++)
		(void)fprintf(file, ",\"%s\":\"b.safetensors\"", p->list[i].name);
	(void)fprintf(file, "}}");
	assert_int_equal(fclose(file), 0);
	c = accept(p);
	assert_int_equal(m2_checkpoint_parameters(c), 878 - 128);
	m2_checkpoint_close(&c);
}

static void what_is_not_there_or_of_another_kind_is_named(void **state)
{
	struct place *p = *state;
	struct m2_checkpoint *c = NULL;
	struct m2_why why;
	refuse(p, M2_ENOENT, "config.json does not exist");
	write_text(p, "model.safetensors", "");
	refuse(p, M2_ENOENT, "config.json does not exist");
	write_text(p, "config.json", "{" CONFIG "}");
	refuse(p, M2_EFORMAT, "model.safetensors");
	write_text(p, "mamba_config.json", "{}");
	refuse(p, M2_EUNSUPPORTED, "MambaInLlama");
	char path[4200];
	(void)snprintf(path, sizeof path, "%s/no/such/place", p->path);
	assert_int_equal(m2_checkpoint_open(path, 0, &c, &why), M2_ENOENT);
	(void)snprintf(path, sizeof path, "%s/no does not exist", p->path);
	assert_string_equal(why.text, path);
	(void)snprintf(path, sizeof path, "%s/config.json/x", p->path);
	assert_int_equal(m2_checkpoint_open(path, 0, &c, &why), M2_ENOENT);
	assert_non_null(strstr(why.text, "config.json is not a directory"));
	(void)snprintf(path, sizeof path, "%s/config.json", p->path);
	assert_int_equal(m2_checkpoint_open(path, 0, &c, &why), M2_ENOENT);
	assert_non_null(strstr(why.text, "Not a directory"));
}

/* Root may enter anything, so the refusal is seen as another user; in a child, to come back. */
static void the_component_that_may_not_be_entered_is_named(void **state)
{
	struct place *p = *state;
	char closed[4200];
	char path[4300];
	struct m2_checkpoint *c = NULL;
	struct m2_why why = {.text = ""};
	const bool root = geteuid() == 0;
	write_all(p, "{" CONFIG "}");
	(void)snprintf(closed, sizeof closed, "%s/closed", p->path);
	(void)snprintf(path, sizeof path, "%s/model/deeper", closed);
	assert_int_equal(mkdir(closed, 0700), 0);
	assert_int_equal(chmod(p->path, 0755), 0);
	assert_int_equal(chmod(closed, 0000), 0);
	if (root)
		assert_int_equal(seteuid(65534), 0);
	const enum m2_err err = m2_checkpoint_open(path, 0, &c, &why);
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(chmod(closed, 0700), 0);
	assert_int_equal(rmdir(closed), 0);
	assert_int_equal(err, M2_EACCES);
	char wanted[4300];
	(void)snprintf(wanted, sizeof wanted, "may not enter %s:", closed);
	if (strstr(why.text, wanted) == NULL)
		print_error("%s\n", why.text);
	assert_non_null(strstr(why.text, wanted));
}

static void a_weight_file_that_may_not_be_read_is_named_with_its_path(void **state)
{
	struct place *p = *state;
	char path[4200];
	struct m2_checkpoint *c = NULL;
	struct m2_why why = {.text = ""};
	const bool root = geteuid() == 0;
	write_all(p, "{" CONFIG "}");
	(void)snprintf(path, sizeof path, "%s/model.safetensors", p->path);
	assert_int_equal(chmod(path, 0), 0);
	assert_int_equal(chmod(p->path, 0755), 0);
	if (root)
		assert_int_equal(seteuid(65534), 0);
	const enum m2_err err = m2_checkpoint_open(p->path, 0, &c, &why);
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(err, M2_EACCES);
	assert_non_null(strstr(why.text, path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_single_file_is_read),
		TEST(shards_are_read_and_win_over_a_single_file),
		cmocka_unit_test(an_index_names_plain_files_only),
		TEST(names_of_every_dialect_are_known),
		TEST(every_float_type_is_read_and_f64_becomes_f32),
		TEST(every_shape_is_compared_and_both_are_said),
		TEST(missing_tensors_are_named),
		TEST(unknown_and_unwanted_tensors_are_refused),
		TEST(a_tied_head_may_be_carried_along_if_it_is_the_embedding),
		TEST(what_is_not_there_or_of_another_kind_is_named),
		TEST(the_component_that_may_not_be_entered_is_named),
		TEST(a_weight_file_that_may_not_be_read_is_named_with_its_path),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
