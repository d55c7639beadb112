/* config_fixes.h - where published files are known to be wrong, and what is true instead.
 *
 * Files are recognised by their shape and their values, never by a path or a name.  Every row that is
 * applied leaves its sentence in config->corrections.  Internal to the room.  Threads: no shared state.
 */
#ifndef M2_MODEL_CONFIG_FIXES_H
#define M2_MODEL_CONFIG_FIXES_H

#include "model/config_keys.h"

/* config: filled from said, ids and eos included. */
void m2_config_fix(const struct m2_said *said, struct m2_model_config *config);

/* generation: a copy of config with the eos ids of generation_config.json.  True: that file repeats what
 * was corrected in config, whose ids stay. */
bool m2_config_generation_repeats(
	const struct m2_model_config *config, const struct m2_model_config *generation);

#endif
