/* host.c - see host.h.  A limit of a control group is not looked at: who sets one says the budgets in bytes. */
#include "common/host.h"

#include <stdio.h>
#include <unistd.h>

uint64_t m2_host_memory(void)
{
	const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

uint64_t m2_host_available(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[256];
	while (file != NULL && fgets(line, sizeof line, file) != NULL)
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (file != NULL)
		(void)fclose(file);
	return (uint64_t)kib * 1024;
}
