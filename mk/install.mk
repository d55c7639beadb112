# make install [DESTDIR=...] [PREFIX=/usr/local]: programs, library, header, pkg-config file, unit,
# configuration, the demo model, and the zoo as examples.  Writes under DESTDIR only; starts and enables nothing.
BINDIR := $(PREFIX)/bin
LIBDIR := $(PREFIX)/lib
INCDIR := $(PREFIX)/include
SHAREDIR := $(PREFIX)/share/mamba2d
DOCDIR := $(PREFIX)/share/doc/mamba2d
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
SYSCONFDIR ?= /etc

demo_files := config.json model.safetensors tokenizer.json LICENSE README.md

install: all
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCDIR) \
		$(DESTDIR)$(SHAREDIR)/demo $(DESTDIR)$(DOCDIR)/zoo/fla-default $(DESTDIR)$(UNITDIR) \
		$(DESTDIR)$(SYSUSERSDIR) $(DESTDIR)$(TMPFILESDIR) \
		$(DESTDIR)$(SYSCONFDIR)/mamba2d/variants
	install -m 755 $(B)/mamba2d $(B)/mamba2ctl $(DESTDIR)$(BINDIR)/
	install -m 755 $(B)/libmamba2.so.0 $(DESTDIR)$(LIBDIR)/
	ln -sf libmamba2.so.0 $(DESTDIR)$(LIBDIR)/libmamba2.so
	install -m 644 $(B)/libmamba2.a $(DESTDIR)$(LIBDIR)/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' client/mamba2.pc.in > \
		$(DESTDIR)$(LIBDIR)/pkgconfig/mamba2.pc
	chmod 644 $(DESTDIR)$(LIBDIR)/pkgconfig/mamba2.pc
	install -m 644 client/mamba2.h $(DESTDIR)$(INCDIR)/
	install -m 644 README.md LICENSE common/PROTOCOL.md $(DESTDIR)$(DOCDIR)/
	install -m 644 configs/reference.yaml $(DESTDIR)$(DOCDIR)/
	install -m 644 configs/zoo/README.md $(sort $(wildcard configs/zoo/*.yaml)) $(DESTDIR)$(DOCDIR)/zoo/
	install -m 644 configs/zoo/fla-default/config.json $(DESTDIR)$(DOCDIR)/zoo/fla-default/
	install -m 644 $(addprefix configs/demo/,$(demo_files)) $(DESTDIR)$(SHAREDIR)/demo/
	install -m 644 systemd/mamba2d.sysusers $(DESTDIR)$(SYSUSERSDIR)/mamba2d.conf
	install -m 644 systemd/mamba2d.tmpfiles $(DESTDIR)$(TMPFILESDIR)/mamba2d.conf
	sed 's|@PREFIX@|$(PREFIX)|g' systemd/mamba2d.service > $(DESTDIR)$(UNITDIR)/mamba2d.service
	chmod 644 $(DESTDIR)$(UNITDIR)/mamba2d.service
	test -e $(DESTDIR)$(SYSCONFDIR)/mamba2d/mamba2d.yaml || install -m 644 configs/mamba2d.yaml \
		$(DESTDIR)$(SYSCONFDIR)/mamba2d/mamba2d.yaml
	test -e $(DESTDIR)$(SYSCONFDIR)/mamba2d/variants/demo.yaml || \
		sed 's|^checkpoint: .*|checkpoint: $(SHAREDIR)/demo|' configs/demo/demo.yaml > \
		$(DESTDIR)$(SYSCONFDIR)/mamba2d/variants/demo.yaml
	@echo "installed; as root, to run the service:"
	@echo "  systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload"
	@echo "  systemctl enable --now mamba2d && mamba2ctl generate demo 'In the beginning'"

uninstall:
	rm -f $(addprefix $(DESTDIR),$(BINDIR)/mamba2d $(BINDIR)/mamba2ctl $(LIBDIR)/libmamba2.so.0 \
		$(LIBDIR)/libmamba2.so $(LIBDIR)/libmamba2.a $(LIBDIR)/pkgconfig/mamba2.pc \
		$(INCDIR)/mamba2.h $(UNITDIR)/mamba2d.service $(SYSUSERSDIR)/mamba2d.conf \
		$(TMPFILESDIR)/mamba2d.conf)
	rm -rf $(DESTDIR)$(SHAREDIR) $(DESTDIR)$(DOCDIR)

.PHONY: install uninstall
