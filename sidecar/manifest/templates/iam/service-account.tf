resource "google_service_account_iam_member" "$label" {
  service_account_id = "projects/-/serviceAccounts/$account"
  role               = "$role"
  member             = "$member"
}
