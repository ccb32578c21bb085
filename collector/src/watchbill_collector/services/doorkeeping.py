"""Enrolment tokens, for the HTTP side."""

from collections.abc import Sequence

from watchbill.errors import UsageError
from watchbill_collector.api.ports import Caller, Enrolment, EnrolmentOrder, Issued, NoSuch, at
from watchbill_collector.enrolment import EnrolmentOrder as Order
from watchbill_collector.enrolment import EnrolmentTokens, IssuedToken, TokenView
from watchbill_collector.enrolment.tokens import TTL_DEFAULT_S
from watchbill_collector.store.enrolments import EnrolmentKind


class DoorService:
    """`api.ports.EnrolmentService` over `enrolment.EnrolmentTokens`."""

    def __init__(self, tokens: EnrolmentTokens) -> None:
        self._tokens = tokens

    async def create(self, order: EnrolmentOrder, by: Caller) -> Sequence[Issued]:
        """Make the tokens."""
        made = await self._tokens.create(
            Order(
                names=order.names,
                match=order.match,
                uses=order.uses,
                ttl_s=TTL_DEFAULT_S if order.ttl_s is None else order.ttl_s,
                cidr=order.cidr,
                labels=dict(order.labels),
                ephemeral=order.ephemeral,
                approve=order.approve,
                replace=order.replace,
                mqtt=order.mqtt,
                certificate_lifetime_s=order.certificate_lifetime_s,
                expired_grace_s=order.expired_grace_s,
            ),
            actor=by.name,
        )
        return [_issued(one) for one in made]

    async def enrolments(self) -> Sequence[Enrolment]:
        """All tokens, newest first."""
        views = [_enrolment(view) for view in self._tokens.list()]
        return sorted(views, key=lambda one: one.created, reverse=True)

    async def revoke(self, enrolment_id: str, by: Caller) -> Enrolment:
        """Make a token worthless."""
        try:
            return _enrolment(await self._tokens.withdraw(enrolment_id, actor=by.name))
        except UsageError as exc:
            raise NoSuch(str(exc)) from exc


def _issued(one: IssuedToken) -> Issued:
    return Issued(_enrolment(one.view), one.token, one.command)


def _enrolment(view: TokenView) -> Enrolment:
    one = view.enrolment
    named = one.kind is EnrolmentKind.NAME
    return Enrolment(
        id=one.enrolment_id,
        name=one.pattern if named else "",
        match="" if named else one.pattern,
        uses=one.uses_max,
        used=one.uses,
        state=view.state,
        created=at(one.created_ms),
        created_by=one.created_by,
        expires=at(one.expires_ms),
        cidr=one.cidr,
        labels=one.labels,
        ephemeral=one.ephemeral,
        approve=one.approve,
        certificate_lifetime_s=_seconds(one.certificate_lifetime_ms),
        expired_grace_s=_seconds(one.expired_grace_ms),
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
