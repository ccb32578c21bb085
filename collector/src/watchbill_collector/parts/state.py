"""What outlives the process and is not history: keys, store, hosts, users, services, and the audit of their changes."""

from watchbill_collector.audit import Audit, Witnesses
from watchbill_collector.configured import store_password
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.init import default_names, open_pki
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.pki import Lifetimes
from watchbill_collector.servicebook import Belonging, read_services
from watchbill_collector.services.auditing import AuditKeeper, AuditMetrics
from watchbill_collector.services.scoping import RegistryBindings
from watchbill_collector.store import Store
from watchbill_collector.users import Users


class State(Part):
    """See the module. `services` is swapped by a reload; `belonging` asks it anew each time."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._open_keys()
        self._open_store()
        self._open_audit()
        self.bindings = RegistryBindings(self.registry)
        self.users.subscribe(lambda: ground.on_loop(ground.bus.poke))
        self.services = read_services(ground.homes.etc, ground.config.channel_names)
        self.belonging = Belonging(lambda: self.services, self.bindings)

    def _open_keys(self) -> None:
        config = self._ground.config
        self.lifetimes = Lifetimes(
            agent_s=float(config.certificates.lifetime),
            expired_grace_s=float(config.certificates.expired_grace),
        )
        self.pki = open_pki(self._ground.directory, self.lifetimes)
        self.names = default_names(config.address, config.names)
        self.renew_server_certificate()

    def renew_server_certificate(self) -> bool:
        """When it is time. Whether it was."""
        return self.pki.server.refresh(self.names, self._ground.clock.wall_ms())

    def _open_store(self) -> None:
        config, clock = self._ground.config, self._ground.clock
        self.store = self._ground.stack.enter_context(
            Store.open(self._ground.directory, config.site, config.store.url, store_password(config))
        )
        self.registry = HostRegistry(self.store, clock)
        self.users = Users(self.store, clock)

    def _open_audit(self) -> None:
        clock, stack = self._ground.clock, self._ground.stack
        self.audit = audit = Audit(self.store, clock, self.pki.audit)
        witnesses = Witnesses(audit.hashes)
        self.auditing = AuditKeeper(self.store, clock, audit, witnesses, self.registry)
        stack.callback(self.auditing.sign)
        stack.callback(self.auditing.tidy, ending=True)
        self._ground.metrics.register(AuditMetrics(self.auditing, audit, witnesses))
