"""The scopes of Google's that there are.

Owns the list by which a scope is judged to be one: the token endpoints refuse others, so a misspelt scope never gets a
token. Pure. Used by `principals`. Sources: https://developers.google.com/identity/protocols/oauth2/scopes and the
scopes that gcloud 528 names. Not complete, and it can't be: what is missing is added to `Principals.scopes`.
"""

from __future__ import annotations

from typing import Final

_NAMES: Final = """
accounts.reauth admanager admin.chrome.printers admin.chrome.printers.readonly admin.datatransfer
admin.datatransfer.readonly admin.directory.customer admin.directory.customer.readonly
admin.directory.device.chromeos admin.directory.device.chromeos.readonly admin.directory.device.mobile
admin.directory.device.mobile.action admin.directory.device.mobile.readonly admin.directory.domain
admin.directory.domain.readonly admin.directory.group admin.directory.group.member
admin.directory.group.member.readonly admin.directory.group.readonly admin.directory.notifications
admin.directory.orgunit admin.directory.orgunit.readonly admin.directory.resource.calendar
admin.directory.resource.calendar.readonly admin.directory.rolemanagement admin.directory.rolemanagement.readonly
admin.directory.user admin.directory.user.alias admin.directory.user.alias.readonly admin.directory.user.readonly
admin.directory.user.security admin.directory.userschema admin.directory.userschema.readonly
admin.reports.audit.readonly admin.reports.usage.readonly adsense adsense.readonly adwords analytics analytics.edit
analytics.manage.users analytics.manage.users.readonly analytics.provision analytics.readonly androidenterprise
androidmanagement androidpublisher appengine.admin appengine.apis apps.alerts apps.groups.migration
apps.groups.settings apps.licensing apps.order apps.order.readonly assistant-sdk-prototype bigquery
bigquery.insertdata bigquery.readonly bigtable.admin bigtable.admin.cluster bigtable.admin.instance
bigtable.admin.table bigtable.data bigtable.data.readonly blogger blogger.readonly books business.manage calendar
calendar.acls calendar.acls.readonly calendar.calendarlist calendar.calendarlist.readonly calendar.calendars
calendar.calendars.readonly calendar.events calendar.events.readonly calendar.freebusy calendar.readonly
calendar.settings.readonly chat.bot chat.memberships chat.memberships.readonly chat.messages chat.messages.create
chat.messages.readonly chat.spaces chat.spaces.readonly classroom.courses classroom.courses.readonly
classroom.coursework.me classroom.coursework.students classroom.profile.emails classroom.rosters
classroom.rosters.readonly cloud-bigtable.admin cloud-bigtable.admin.cluster cloud-bigtable.admin.table
cloud-bigtable.data cloud-bigtable.data.readonly cloud-billing cloud-billing.readonly cloud-healthcare
cloud-identity cloud-identity.devices cloud-identity.devices.lookup cloud-identity.devices.readonly
cloud-identity.groups cloud-identity.groups.readonly cloud-identity.inboundsso cloud-identity.inboundsso.readonly
cloud-identity.orgunits cloud-identity.orgunits.readonly cloud-identity.policies cloud-identity.policies.readonly
cloud-language cloud-platform cloud-platform.read-only cloud-source-tools cloud-translation cloud-vision
cloud_debugger cloud_search cloud_search.indexing cloud_search.query cloud_search.settings cloud_search.stats
cloudkms cloudplatformfolders cloudplatformfolders.readonly cloudplatformorganizations
cloudplatformorganizations.readonly cloudplatformprojects cloudplatformprojects.readonly cloudprint
cloudruntimeconfig compute compute.readonly contacts contacts.other.readonly contacts.readonly content
dataportability.myactivity.search datastore ddmconversions devstorage.full_control devstorage.read_only
devstorage.read_write dfareporting dfatrafficking dfp dialogflow directory.readonly display-video documents
documents.readonly doubleclickbidmanager drive drive.activity drive.activity.readonly drive.appdata drive.file
drive.metadata drive.metadata.readonly drive.readonly drive.scripts earthengine earthengine.readonly ediscovery
ediscovery.readonly firebase firebase.database firebase.messaging firebase.readonly fitness.activity.read
fitness.body.read forms.body forms.body.readonly forms.responses.readonly games generative-language
generative-language.retriever generative-language.tuning genomics gmail.addons.current.message.readonly
gmail.compose gmail.insert gmail.labels gmail.metadata gmail.modify gmail.readonly gmail.send gmail.settings.basic
gmail.settings.sharing homegraph iam identitytoolkit indexing keep keep.readonly logging.admin logging.read
logging.write manufacturercenter maps-platform.places meetings.media.readonly meetings.space.created
meetings.space.readonly monitoring monitoring.read monitoring.write ndev.clouddns.readonly ndev.clouddns.readwrite
ndev.cloudman ndev.cloudman.readonly photoslibrary photoslibrary.appendonly photoslibrary.readonly playintegrity
prediction presentations presentations.readonly pubsub sasportal script.deployments script.external_request
script.metrics script.processes script.projects script.projects.readonly sdm.service service.management
service.management.readonly servicecontrol siteverification siteverification.verify_only source.full_control
source.read_only source.read_write spanner.admin spanner.data spreadsheets spreadsheets.readonly sqlservice
sqlservice.admin sqlservice.login streetviewpublish tagmanager.edit.containers tagmanager.publish
tagmanager.readonly taskqueue tasks tasks.readonly trace.append trace.readonly urlshortener user.addresses.read
user.birthday.read user.emails.read user.gender.read user.organization.read user.phonenumbers.read userinfo.email
userinfo.profile verifiedaccess wallet_object.issuer walletobjects webmasters webmasters.readonly youtube
youtube.force-ssl youtube.readonly youtube.upload youtubepartner yt-analytics-monetary.readonly
yt-analytics.readonly
"""

CLOUD_PLATFORM: Final = "https://www.googleapis.com/auth/cloud-platform"
IAM: Final = "https://www.googleapis.com/auth/iam"
KNOWN: Final = frozenset(
    {
        "openid",
        "email",
        "profile",
        "https://mail.google.com/",
        "https://www.google.com/m8/feeds",
        "https://www.google.com/calendar/feeds",
        *(f"https://www.googleapis.com/auth/{name}" for name in _NAMES.split()),
    }
)
"""Each as it is written in a request."""

_API: Final = {
    "bigquery": ("bigquery", "bigquery.readonly", "bigquery.insertdata"),
    "bigtable": (
        "bigtable.data",
        "bigtable.data.readonly",
        "cloud-bigtable.data",
        "cloud-bigtable.data.readonly",
    ),
    "cloudkms": ("cloudkms",),
    "compute": ("compute", "compute.readonly"),
    "datastore": ("datastore",),
    "firestore": ("datastore",),
    "logging": ("logging.admin", "logging.read", "logging.write", "cloud-platform.read-only"),
    "monitoring": ("monitoring", "monitoring.read", "monitoring.write"),
    "pubsub": ("pubsub",),
    "spanner": ("spanner.data", "spanner.admin"),
    "storage": (
        "devstorage.read_only",
        "devstorage.read_write",
        "devstorage.full_control",
        "cloud-platform.read-only",
    ),
}
"""By each API's own page of its scopes, such as https://cloud.google.com/storage/docs/oauth-scopes."""


def of_api(service: str) -> tuple[str, ...]:
    """The scopes of which an API, by its host name, wants one."""
    own = _API.get(service.partition(".")[0], ())
    return (CLOUD_PLATFORM, *(f"https://www.googleapis.com/auth/{name}" for name in own))
