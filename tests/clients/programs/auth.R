# R's gargle, as Debian has it.
suppressMessages(library(gargle))
env <- Sys.getenv

# Its token endpoint is fixed: it is written over, in its own namespace.
elsewhere <- gargle:::gargle_oauth_endpoint()
elsewhere$access <- env("OAUTH_URL")
assignInNamespace("gargle_oauth_endpoint", function() elsewhere, "gargle")

access_token <- function(token, none) {
  if (is.null(token)) stop(none)
  list(access_token = token$credentials$access_token)
}

ways <- list(
  metadata_access = function() access_token(credentials_gce(scopes = env("SCOPE")), "gargle finds no metadata server"),
  key_access = function() access_token(
    credentials_service_account(scopes = env("SCOPE"), path = env("KEY_FILE")), "gargle takes no key"
  ),
  federation_aws = function() {
    # The only source that it knows; it leaves the work to two packages.
    for (package in c("aws.ec2metadata", "aws.signature")) {
      if (!requireNamespace(package, quietly = TRUE)) {
        return(list(absent = sprintf("%s needs %s, which Debian lacks", packageVersion("gargle"), package)))
      }
    }
    access_token(credentials_external_account(scopes = env("SCOPE"), path = env("FEDERATION_AWS_FILE")), "no token")
  }
)

for (way in commandArgs(trailingOnly = TRUE)) {
  found <- tryCatch(ways[[way]](), error = function(e) list(error = conditionMessage(e)))
  cat(jsonlite::toJSON(c(list(way = way), found), auto_unbox = TRUE), "\n")
}
